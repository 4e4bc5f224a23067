// Thumbnails from the server, for images that the host or the browser does not let the view fetch.

const URL_KEY = "replicate-mcp/url";
const HOPELESS = 2; // pages in a row without any: there are none to be had

/** One batch's: its pages are gone through once, as far as an image is missing. */
class Thumbnails {
  #found = new Map(); // by the image's URL
  #cursor = 0;
  #without = 0;
  #walk = Promise.resolve();

  constructor(host, batchId) {
    this.host = host;
    this.batchId = batchId;
  }

  /** The thumbnail of an image as a `data:` URL; undefined where there is none. */
  async of(url) {
    this.#walk = this.#walk.then(() => this.#look(url)).catch(() => {});
    await this.#walk;
    return this.#found.get(url);
  }

  async #look(url) {
    while (!this.#found.has(url) && this.#without < HOPELESS) {
      const given = { batch_id: this.batchId, after: this.#cursor, preview: true };
      const { page, images = [] } = await this.host.callTool("get_batch", given);
      if (page === undefined || page.cursor === this.#cursor) return;
      this.#cursor = page.cursor;
      this.#without = images.length ? 0 : this.#without + 1;
      for (const { mimeType, data, _meta } of images) {
        if (_meta?.[URL_KEY]) this.#found.set(_meta[URL_KEY], `data:${mimeType};base64,${data}`);
      }
    }
  }
}

const byBatch = new Map();

/** What gives the thumbnails of a batch by their images' URLs; nothing where the host calls no tool. */
export function thumbnailsOf(host, batchId) {
  if (!host.canCallTools) return async () => undefined;
  if (!byBatch.has(batchId)) byBatch.set(batchId, new Thumbnails(host, batchId));
  return (url) => byBatch.get(batchId).of(url);
}
