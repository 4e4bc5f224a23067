// Thumbnails from the server, for images that the host or the browser does not let the view load.

const URL_KEY = "replicate-mcp/url";
const MAX_PAGES_WITHOUT_IMAGES = 2; // In a row; the server then has no thumbnails of the batch.

/** The thumbnails of one batch; its pages are fetched once, as far as they are needed. */
class BatchThumbnails {
  #dataUrls = new Map(); // By the image's URL.
  #cursor = 0;
  #pagesWithoutImages = 0;
  #queue = Promise.resolve();

  constructor(host, batchId) {
    this.host = host;
    this.batchId = batchId;
  }

  /** Return the `data:` URL of an image's thumbnail; undefined if there is none. */
  async get(url) {
    this.#queue = this.#queue.then(() => this.#fetchUntilFound(url)).catch(() => {});
    await this.#queue;
    return this.#dataUrls.get(url);
  }

  async #fetchUntilFound(url) {
    while (!this.#dataUrls.has(url) && this.#pagesWithoutImages < MAX_PAGES_WITHOUT_IMAGES) {
      const toolArguments = { batch_id: this.batchId, after: this.#cursor, preview: true };
      const { page, images = [] } = await this.host.callTool("get_batch", toolArguments);
      if (page === undefined || page.cursor === this.#cursor) return;
      this.#cursor = page.cursor;
      this.#pagesWithoutImages = images.length ? 0 : this.#pagesWithoutImages + 1;
      for (const { mimeType, data, _meta } of images) {
        if (_meta?.[URL_KEY]) this.#dataUrls.set(_meta[URL_KEY], `data:${mimeType};base64,${data}`);
      }
    }
  }
}

const thumbnailsByBatch = new Map();

/** Return a function from an image's URL to its thumbnail, which finds none if tools are unavailable. */
export function thumbnailLoader(host, batchId) {
  if (!host.canCallTools) return async () => undefined;
  if (!thumbnailsByBatch.has(batchId)) {
    thumbnailsByBatch.set(batchId, new BatchThumbnails(host, batchId));
  }
  return (url) => thumbnailsByBatch.get(batchId).get(url);
}
