// Runs the tests of the wasm module one after the other and posts each outcome to the server of `cargo xtask web-test`.
// It knows no test: names and bodies are in Rust.

const log = document.getElementById("log");

async function post(path, body) {
  log.append(`${path.slice(1)} ${body}\n`);
  await fetch(path, { method: "POST", body });
}

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`GET ${path}: status ${response.status}`);
  return response;
}

// A trap inside a future that a microtask polls never settles the promise of that future. It surfaces as the panic
// hook's call or as a window event instead; both end the test in progress through `interrupt`.
let interrupt = () => {};
globalThis.wgpuAttentionPanicked = (message) => interrupt(message);
addEventListener("error", (event) => interrupt(event.message));
addEventListener("unhandledrejection", (event) => interrupt(String(event.reason)));

globalThis.wgpuAttentionFetch = async (path) => new Uint8Array(await (await get(path)).arrayBuffer());

// A panicked wasm instance is not used again: a new query string makes the browser load the module afresh.
let instances = 0;
async function load() {
  const module = await import(`./pkg/web_test.js?${instances++}`);
  await module.default();
  return module;
}

async function main() {
  const filter = new URLSearchParams(location.search).get("filter") ?? "";
  const cases = (await (await get("/cases")).text()).split("\n").filter((line) => line !== "");

  let module = await load();
  let count = 0;
  for (const name of module.list(cases)) {
    if (!name.includes(filter)) continue;
    count += 1;
    await post("/started", name);
    let poisoned = false;
    const interrupted = new Promise((_, reject) => {
      interrupt = (message) => {
        poisoned = true;
        reject(message);
      };
    });
    try {
      const note = await Promise.race([module.run(name), interrupted]);
      await post("/passed", `${name}\n${note}`);
    } catch (message) {
      await post("/failed", `${name}\n${message}`);
    }
    if (poisoned) module = await load();
  }
  await post("/done", `${count}`);
}

main().catch((error) => post("/aborted", `${error.stack ?? error}`));
