// The host's look and room: its theme, style variables and fonts, and the size of the view.

const root = document.documentElement;
let dimensions = {};
let told = "";

/** Take over what the host says of itself; it may be only what changed. */
export function applyHostContext(context) {
  if (context.theme) root.style.colorScheme = context.theme;
  for (const [name, value] of Object.entries(context.styles?.variables ?? {})) {
    if (name.startsWith("--") && typeof value === "string") root.style.setProperty(name, value);
  }
  if (context.styles?.css?.fonts) applyFonts(context.styles.css.fonts);
  if (context.displayMode) root.dataset.displayMode = context.displayMode;
  if (context.safeAreaInsets) {
    for (const side of ["top", "right", "bottom", "left"]) {
      root.style.setProperty(`--inset-${side}`, `${context.safeAreaInsets[side] ?? 0}px`);
    }
  }
  if (context.containerDimensions) {
    dimensions = context.containerDimensions;
    const { height, maxHeight } = dimensions;
    root.toggleAttribute("data-limited", height !== undefined || maxHeight !== undefined);
    root.style.blockSize = height === undefined ? "" : "100vh";
    root.style.maxBlockSize = maxHeight === undefined ? "" : `${maxHeight}px`;
  }
}

/** Tell the host how high the view is, now and whenever that changes. */
export function reportSize(view, host) {
  const report = () => {
    const height = Math.ceil(view.getBoundingClientRect().height);
    // As wide as may be: of a width that is not limited, the host knows more than the view.
    const { width, maxWidth } = dimensions;
    const size = width === undefined && maxWidth ? { width: maxWidth, height } : { height };
    if (told === JSON.stringify(size)) return;
    told = JSON.stringify(size);
    host.notify("ui/notifications/size-changed", size);
  };
  new ResizeObserver(report).observe(view);
}

function applyFonts(css) {
  let sheet = document.getElementById("host-fonts");
  if (!sheet) {
    sheet = document.createElement("style");
    sheet.id = "host-fonts";
    document.head.append(sheet);
  }
  sheet.textContent = css;
}
