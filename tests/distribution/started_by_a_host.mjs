// What a host starts for an unpacked bundle, by the functions that the hosts use.
import { readFileSync } from "node:fs";
import { getMcpConfigForManifest } from "../../bundle/node_modules/@anthropic-ai/mcpb/dist/index.js";

const [folder, userConfig] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(`${folder}/manifest.json`, "utf-8"));
const config = await getMcpConfigForManifest({
  manifest,
  extensionPath: folder,
  systemDirs: {},
  userConfig: JSON.parse(userConfig),
  pathSeparator: "/",
});
console.log(JSON.stringify(config ?? null));
