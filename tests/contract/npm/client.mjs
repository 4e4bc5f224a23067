// Uses the official JavaScript client against the simulator at BASE_URL; prints what it got as JSON.
import Replicate from "replicate";

const model = "black-forest-labs/flux-schnell";
const replicate = new Replicate({
  auth: process.env.REPLICATE_API_TOKEN,
  baseUrl: `${process.env.BASE_URL}/v1`,
});

const held = await replicate.predictions.create({
  model,
  input: { prompt: "a red car", num_outputs: 2 },
  wait: 10,
});
const [output] = await replicate.run(model, { input: { prompt: "a blue house" } });
const image = await fetch(output);

const hanging = await replicate.predictions.create({ model, input: { prompt: "[hang]" } });
const cancelled = await replicate.predictions.cancel(hanging.id);
const again = await replicate.predictions.get(hanging.id);

const { latest_version: version } = await replicate.models.get("community", "layers");
const layers = await replicate.run(`community/layers:${version.id}`, { input: { prompt: "a" } });

const deployed = await replicate.deployments.predictions.create("acme", "fast-flux", {
  input: { prompt: "a" },
  wait: true,
});
const listed = await replicate.predictions.list();
const models = await replicate.models.list();
const found = await replicate.models.search("nano banana");
const collection = await replicate.collections.get("text-to-image");
const account = await replicate.accounts.current();
const secret = await replicate.webhooks.default.secret.get();
const file = await replicate.files.create(new Blob(["cat"], { type: "text/plain" }));
await replicate.files.delete(file.id);

let refused;
try {
  await replicate.predictions.create({ model, input: {} });
} catch (error) {
  refused = error.response.status;
}

console.log(
  JSON.stringify({
    held: { status: held.status, outputs: held.output.length },
    image: { status: image.status, type: image.headers.get("content-type") },
    cancelled: cancelled.status,
    again: again.status,
    layers: Object.keys(layers),
    deployed: { status: deployed.status, deployment: deployed.deployment },
    listed: listed.results.length,
    models: models.results.length,
    found: found.results.map(({ name }) => name),
    collection: collection.slug,
    account: account.username,
    secret: secret.key.split("_")[0],
    file: file.size,
    refused,
  }),
);
