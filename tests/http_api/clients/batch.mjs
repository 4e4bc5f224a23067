// What a host does with a batch: lists, makes two images and hears of them, is refused, looks again.
const tasks = [
  { prompt: "a red car", output_filename: "red_car.jpg" },
  { prompt: "a blue house", output_filename: "blue_house.png" },
];

/** Prints what `client` gets as JSON; `call(params, options)` calls a tool through it. */
export async function tryBatch(client, call) {
  const { tools } = await client.listTools();
  const reported = [];
  const made = await call(
    { name: "generate_images", arguments: { tasks } },
    { onprogress: ({ progress }) => reported.push(progress), resetTimeoutOnProgress: true },
  );
  const refused = await call({
    name: "generate_images",
    arguments: { tasks: [{ prompt: "a red car", aspect_ratio: "16x9" }] },
  });
  const again = await call({
    name: "get_batch",
    arguments: { batch_id: made.structuredContent.batch_id },
  });
  let unknown;
  try {
    await call({ name: "draw", arguments: {} });
  } catch (error) {
    unknown = { code: error.code, message: error.message };
  }
  await client.close();
  console.log(
    JSON.stringify({ tools: tools.map(({ name }) => name), reported, made, refused, again, unknown }),
  );
}
