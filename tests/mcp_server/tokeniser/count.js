// Tells how many tokens the text on standard input is.

import { readFileSync } from "node:fs";
import { encode } from "gpt-tokenizer/encoding/o200k_base";

console.log(encode(readFileSync(0, "utf8")).length);
