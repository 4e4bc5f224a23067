// What the tool was called with: the tasks, what each tile will be like, and how to ask again.

const COUNT_FIELDS = ["num_outputs", "max_images", "number_of_images", "num_images"];
const MOST_OUTPUTS = 10;

/** A task as it was asked for. */
export class Asked {
  #task;
  isWhole = true;

  /** `model`: of tasks that name none. */
  constructor(task, index, model) {
    const own = task && typeof task === "object" ? task : {};
    this.#task = { ...own, model: own.model ?? model };
    this.index = index;
    this.prompt = textOr(this.#input("prompt"), "");
    this.filename = textOr(this.#task.output_filename, `generated_image_${index + 1}`);
  }

  /** A value of the model's inputs, which win from `input`. */
  #input(name) {
    return this.#task.input?.[name] ?? this.#task[name];
  }

  /** Whether a row can be this task's: a failed one does not tell its model and seed. */
  canBe({ prompt = "", output_filename, model, seed }) {
    const wanted = this.#task.model;
    const isFullName = typeof wanted === "string" && wanted.includes("/");
    return (
      prompt === this.prompt &&
      output_filename === this.filename &&
      (model === undefined || !isFullName || model === wanted.trim()) &&
      (seed === undefined || seed === (this.#input("seed") ?? seed))
    );
  }

  /** How many images it will give, as far as can be foreseen. */
  get outputs() {
    const count = COUNT_FIELDS.map((name) => Number(this.#input(name))).find((n) => n > 1);
    return count ? Math.min(Math.floor(count), MOST_OUTPUTS) : 1;
  }

  /** Width over height, as far as it was said. */
  get ratio() {
    const [, wide, high] = /^(\d+):(\d+)$/.exec(this.#input("aspect_ratio")) ?? [];
    const width = Number(wide ?? this.#input("width"));
    const height = Number(high ?? this.#input("height"));
    return width > 0 && height > 0 ? width / height : 1;
  }

  /** The same task under another name, for which another seed is to be chosen. */
  again(filename) {
    const { seed, input, ...task } = this.#task;
    if (input) {
      const { seed: chosen, ...rest } = input;
      task.input = rest;
    }
    return { ...task, output_filename: filename };
  }
}

/** A task of which only the result is known: its other inputs are not in it. */
export function askedByRow(row) {
  const { prompt, output_filename, model } = row;
  const asked = new Asked({ prompt, output_filename, model }, row.task_index);
  asked.isWhole = false;
  return asked;
}

/** One ratio for all frames: their own where they agree, else a square that holds any. */
export function commonRatio(asked) {
  const ratios = asked.map((each) => each.ratio);
  const agree = ratios.every((ratio) => Math.abs(ratio - ratios[0]) < 0.02);
  return agree && ratios.length ? Math.min(16 / 9, Math.max(9 / 16, ratios[0])) : 1;
}

/** `red_car.jpg`, made the second time: `red_car_2.jpg`. */
export function nameAgain(filename, number) {
  const dot = filename.lastIndexOf(".");
  return dot > 0
    ? `${filename.slice(0, dot)}_${number}${filename.slice(dot)}`
    : `${filename}_${number}`;
}

function textOr(value, otherwise) {
  return typeof value === "string" && value ? value : otherwise;
}
