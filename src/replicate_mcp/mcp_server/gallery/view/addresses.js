// Which addresses may be shown and opened: Replicate's delivery hosts, and a simulator's origin where
// the server works against one. A result's URL comes from outside.

const DELIVERY = "replicate.delivery";

const OWN_ORIGINS = document.querySelector("meta[name='image-origins']").content.split(" ");

/** The address of an image, or undefined where it is not one to go to. */
export function imageAddress(url) {
  if (!URL.canParse(url)) return undefined;
  const { protocol, hostname, port, origin, username, password, href } = new URL(url);
  if (username || password) return undefined;
  if (OWN_ORIGINS.includes(origin)) return href;
  const delivered = hostname === DELIVERY || hostname.endsWith(`.${DELIVERY}`);
  return delivered && protocol === "https:" && port === "" ? href : undefined;
}
