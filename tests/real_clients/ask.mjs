// A real client for Node.js, unchanged but for the address: does what it is told, and prints what its objects came to.
//
// It is run on standard input in the folder of its packages, with the same JSON as an argument as ask.py, and prints
// the same. `client` is openai, ai-openai or ai-compatible: openai's own, or Vercel's AI SDK over one of two providers.

import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";

const demand = JSON.parse(process.argv[2]);

function seen(data) {
  const isPng = data.subarray(0, 4).equals(Buffer.from("\x89PNG", "latin1"));
  return { sha256: createHash("sha256").update(data).digest("hex"), is_png: isPng };
}

function picture(item) {
  return { url: item.url ?? null, ...(item.b64_json ? seen(Buffer.from(item.b64_json, "base64")) : {}) };
}

function failure(error) {
  // Vercel's tells of its last try beside that it gave up.
  const last = error.lastError ?? error;
  const told = { class: error.name === "Error" ? error.constructor.name : error.name, message: error.message };
  const status = last.status ?? last.statusCode ?? null;
  return { error: { ...told, status_code: status, code: last.code ?? last.data?.error?.code ?? null, tries: error.errors?.length ?? 1 } };
}

async function withOpenai() {
  const { default: OpenAI, toFile } = await import("openai");
  const client = new OpenAI({ baseURL: demand.url, apiKey: demand.key, ...demand.settings });
  return async ({ do: method = "generate", ...terms }) => {
    if (method === "models") {
      const names = [];
      for await (const each of client.models.list()) names.push(each.id);
      return { names };
    }
    for (const name of ["image", "mask"]) {
      const open = (path) => toFile(createReadStream(path), null, { type: "image/png" });
      if (Array.isArray(terms[name])) terms[name] = await Promise.all(terms[name].map(open));
      else if (terms[name] !== undefined) terms[name] = await open(terms[name]);
    }
    const response = await client.images[method](terms);
    if (!terms.stream) return { pictures: response.data.map(picture), ignored: response.ignored };
    const events = [];
    for await (const event of response) events.push(event);
    return { events: events.map((each) => each.type), pictures: events.map(picture) };
  };
}

async function withAi() {
  const { generateImage } = await import("ai");
  const isOpenai = demand.client === "ai-openai";
  const made = isOpenai
    ? (await import("@ai-sdk/openai")).createOpenAI
    : (await import("@ai-sdk/openai-compatible")).createOpenAICompatible;
  const provider = made({ name: isOpenai ? "openai" : "served", baseURL: demand.url, apiKey: demand.key });
  return async ({ do: method = "generate", model, prompt, image, patience, ...terms }) => {
    const images = method === "edit" ? [readFileSync(image)] : null;
    // It has no time-out, but takes a signal.
    if (patience !== undefined) terms.abortSignal = AbortSignal.timeout(patience);
    const found = await generateImage({
      model: isOpenai ? provider.image(model) : provider.imageModel(model),
      prompt: images === null ? prompt : { text: prompt, images },
      ...demand.settings,
      ...terms,
    });
    const pictures = found.images.map((each) => ({ url: null, ...seen(Buffer.from(each.uint8Array)) }));
    return { pictures, warnings: found.warnings.map((each) => each.feature ?? each.setting) };
  };
}

// What its warnings tell is among the answers.
globalThis.AI_SDK_LOG_WARNINGS = false;

const ask = await (demand.client === "openai" ? withOpenai() : withAi());
const told = await Promise.all(demand.calls.map(async (call) => ask(call).catch(failure)));
console.log(JSON.stringify(told));
