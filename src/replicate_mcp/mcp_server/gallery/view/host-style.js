// The host's style and the view's size: theme, style variables, fonts and container dimensions.

const root = document.documentElement;
let dimensions = {};
let reportedSize = "";

/** Apply the host's context, or the part of it that has changed. */
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

/** Report the size of the view to the host, now and after each change. */
export function reportSize(view, host) {
  const report = () => {
    const height = Math.ceil(view.getBoundingClientRect().height);
    // Request the maximum width; if the width is unlimited, the host decides.
    const { width, maxWidth } = dimensions;
    const size = width === undefined && maxWidth ? { width: maxWidth, height } : { height };
    if (reportedSize === JSON.stringify(size)) return;
    reportedSize = JSON.stringify(size);
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
