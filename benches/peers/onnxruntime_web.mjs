// Workload V1 by onnxruntime-web in headless Chromium on SwiftShader: the peer of the tests `timing::` of `cargo xtask web-test`.
//
//   npm install onnxruntime-web@1.30.0 playwright-core    (in FOLDER, where the models of onnxruntime_web.py are too)
//   node onnxruntime_web.mjs FOLDER [webgpu|wasm]
//
// Prints the least of five runs after a first one, in milliseconds, outputs on the CPU.

import { createReadStream, existsSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join, resolve } from "node:path";

const folder = resolve(process.argv[2] ?? ".");
const provider = process.argv[3] ?? "webgpu";
const { chromium } = createRequire(join(folder, "x.js"))("playwright-core");

const types = { ".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm" };
const server = createServer((request, response) => {
  const path = new URL(request.url, "http://127.0.0.1").pathname;
  if (path === "/") return response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>peer</title>");
  const file = join(folder, path);
  if (!file.startsWith(folder) || !existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" });
  createReadStream(file).pipe(response);
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
  ],
});
const page = await browser.newPage();
page.on("console", (message) => console.error(message.text()));
await page.goto(`http://127.0.0.1:${server.address().port}/`);

const work = async ({ provider, name }) => {
  const ort = await import("/node_modules/onnxruntime-web/dist/ort.all.bundle.min.mjs");
  ort.env.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(`/${name}.onnx`, { executionProviders: [provider] });
  const floats = (shape) =>
    new ort.Tensor("float32", Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => Math.random() - 0.5), shape);
  const whole = (shape, value) => new ort.Tensor("int32", Int32Array.from([value]), shape);
  const rows = [1, 256, 512];
  const feeds =
    name === "decode"
      ? {
          q: floats([1, 1, 512]), k: floats([1, 1, 128]), v: floats([1, 1, 128]),
          past_k: floats([1, 2, 511, 64]), past_v: floats([1, 2, 511, 64]),
          last: whole([1, 1], 511), total: whole([1], 512),
        }
      : { q: floats(rows), k: floats(rows), v: floats(rows) };
  const times = [];
  for (let turn = 0; turn < 6; turn++) {
    const start = performance.now();
    await session.run(feeds);
    times.push(performance.now() - start);
  }
  return { first: times[0], least: Math.min(...times.slice(1)) };
};

for (const name of ["full", "causal", "decode"]) {
  const { first, least } = await page.evaluate(work, { provider, name });
  console.log(`${provider} ${name}: ${least.toFixed(1)} ms (first ${first.toFixed(0)} ms)`);
}
await browser.close();
server.close();
