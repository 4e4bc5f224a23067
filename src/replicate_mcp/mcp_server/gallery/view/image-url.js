// Which URLs may be displayed and opened: those of Replicate's delivery hosts and, when the server
// runs against a simulator, of the simulator's origin. The URLs in results are untrusted.

const DELIVERY_HOST = "replicate.delivery";

const EXTRA_ORIGINS = document.querySelector("meta[name='image-origins']").content.split(" ");

/** Return the normalized URL, or undefined if it is not on an allowed host. */
export function allowedImageUrl(url) {
  if (!URL.canParse(url)) return undefined;
  const { protocol, hostname, port, origin, username, password, href } = new URL(url);
  if (username || password) return undefined;
  if (EXTRA_ORIGINS.includes(origin)) return href;
  const isDeliveryHost = hostname === DELIVERY_HOST || hostname.endsWith(`.${DELIVERY_HOST}`);
  return isDeliveryHost && protocol === "https:" && port === "" ? href : undefined;
}
