// The tasks in a tool call's arguments: what each tile will show.

const OUTPUT_COUNT_INPUTS = ["num_outputs", "max_images", "number_of_images", "num_images"];
const MAX_OUTPUTS = 10;
const MIN_RATIO = 9 / 16;
const MAX_RATIO = 16 / 9;
const RATIO_TOLERANCE = 0.02;

/** A task as requested in the tool call. */
export class RequestedTask {
  #task;

  /** `model` is the model of tasks that name none. */
  constructor(task, index, model) {
    const fields = task && typeof task === "object" ? task : {};
    this.#task = { ...fields, model: fields.model ?? model };
    this.index = index;
    this.prompt = stringOr(this.#input("prompt"), "");
    this.filename = stringOr(this.#task.output_filename, `generated_image_${index + 1}`);
  }

  /** Return a model input; `input` overrides same-named keys of the task. */
  #input(name) {
    return this.#task.input?.[name] ?? this.#task[name];
  }

  /** Whether a result row can belong to this task. A failed row has no model and no seed. */
  matches({ prompt = "", output_filename, model, seed }) {
    const requestedModel = this.#task.model;
    const isFullName = typeof requestedModel === "string" && requestedModel.includes("/");
    return (
      prompt === this.prompt &&
      output_filename === this.filename &&
      (model === undefined || !isFullName || model === requestedModel.trim()) &&
      (seed === undefined || seed === (this.#input("seed") ?? seed))
    );
  }

  /** The expected number of images. */
  get outputCount() {
    const count = OUTPUT_COUNT_INPUTS.map((name) => Number(this.#input(name))).find((n) => n > 1);
    return count ? Math.min(Math.floor(count), MAX_OUTPUTS) : 1;
  }

  /** The expected width over height; 1 if the inputs do not give it. */
  get ratio() {
    const [, ratioWidth, ratioHeight] = /^(\d+):(\d+)$/.exec(this.#input("aspect_ratio")) ?? [];
    const width = Number(ratioWidth ?? this.#input("width"));
    const height = Number(ratioHeight ?? this.#input("height"));
    return width > 0 && height > 0 ? width / height : 1;
  }
}

/** Rebuild a task from its result row, which lacks inputs other than the prompt. */
export function taskFromRow(row) {
  const { prompt, output_filename, model } = row;
  return new RequestedTask({ prompt, output_filename, model }, row.task_index);
}

/** Return one ratio for all frames: that of the tasks if they agree, otherwise 1. */
export function commonRatio(tasks) {
  const ratios = tasks.map((task) => task.ratio);
  const agree = ratios.every((ratio) => Math.abs(ratio - ratios[0]) < RATIO_TOLERANCE);
  return agree && ratios.length ? Math.min(MAX_RATIO, Math.max(MIN_RATIO, ratios[0])) : 1;
}

/** Number a filename: `red_car.jpg` and 2 give `red_car_2.jpg`. */
export function nextFilename(filename, number) {
  const dot = filename.lastIndexOf(".");
  return dot > 0
    ? `${filename.slice(0, dot)}_${number}${filename.slice(dot)}`
    : `${filename}_${number}`;
}

function stringOr(value, fallback) {
  return typeof value === "string" && value ? value : fallback;
}
