// The suites import a function of Node 22's that they do not use against a server: Node 20 will do.
import { register } from "node:module";

const script = (text) => `data:text/javascript,${encodeURIComponent(text)}`;
const fs = script(`
  export * from "node:fs";
  export { default } from "node:fs";
  export const globSync = undefined;
`);
register(
  script(`
    export const resolve = (name, context, next) =>
      name === "fs" ? { url: ${JSON.stringify(fs)}, shortCircuit: true } : next(name, context);
  `),
);
