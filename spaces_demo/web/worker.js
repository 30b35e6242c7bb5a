// The model, in a worker of the page: what `hf-ris export` wrote, run by ONNX Runtime Web.

import { maskPng, paintMask, pixelValues, readScore, resizeBilinear, rowsOf } from "./processing.js";

const LARGE_MODEL = 64e6; // bytes; a smaller one answers at once by WebAssembly, and neither WebGPU nor threads are worth their start
const MOST_THREADS = 4;

async function fetchBytes(path, onPart = () => {}) {
  const response = await fetch(new URL(path, import.meta.url)).catch(() => {
    throw new Error(`${path} cannot be fetched: the connection failed.`);
  });
  if (!response.ok) throw new Error(`${path} cannot be fetched: the server answers ${response.status}.`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let count = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read().catch(() => {
      throw new Error(`${path} cannot be fetched: the connection broke.`);
    });
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    count += value.length;
    onPart(total ? Math.min(1, count / total) : 0);
  }
}

async function fetchJson(path) {
  const text = new TextDecoder().decode(await fetchBytes(path));
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${path} is damaged.`);
  }
}

/** What this page can run, by the names that `hf-ris export` writes. */
function checkConfig({ model_type, graphs, preparation, reading }) {
  const wanted = [
    ["its type", model_type, "onnx_referring_segmentation"],
    ["its graph", graphs?.whole && "whole", "whole"],
    ["its image's fit", preparation?.fit, "squash"],
    ["its image's resampling", preparation?.resample, "bilinear"],
    ["what is enlarged", reading?.enlarge, "logits"],
    ["its masks' interpolation", reading?.interpolation, "bilinear"],
    ["its aligned corners", reading?.align_corners, true],
  ];
  for (const [what, got, needed] of wanted) {
    if (got !== needed) throw new Error(`This page cannot run this model: ${what} must be ${needed}, got ${got ?? "nothing"}.`);
  }
}

class Model {
  /** Fetch the model, and start it by WebGPU where that pays, else by WebAssembly. */
  static async open({ device, hasGpu, threads }, tell) {
    const model = Object.assign(new Model(), { tell });
    const { Tokenizer } = await import(new URL("vendor/tokenizers/tokenizers.min.mjs", import.meta.url));
    model.config = await fetchJson("model/config.json");
    checkConfig(model.config);
    const [tokens, settings] = await Promise.all(["model/tokenizer.json", "model/tokenizer_config.json"].map(fetchJson));
    model.tokenizer = new Tokenizer(tokens, settings);
    model.unknown = settings.unk_token;
    model.bytes = await fetchBytes(`model/${model.config.graphs.whole}`, (share) => tell({ progress: share }));
    model.size = model.bytes.length;
    tell({ progress: null });
    const isLarge = model.size > LARGE_MODEL;
    model.threads = crossOriginIsolated ? (threads ?? (isLarge ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1)) : 1;
    await model.start(device ?? (isLarge && hasGpu ? "webgpu" : "wasm"));
    return model;
  }

  async start(device) {
    const build = device === "webgpu" ? "jspi." : "";
    const vendor = (name) => new URL(`vendor/onnxruntime-web/${name}`, import.meta.url).href;
    try {
      this.runtime = await import(vendor(`ort.${device === "webgpu" ? "jspi" : "wasm"}.min.mjs`));
      const { env, InferenceSession } = this.runtime;
      env.logLevel = "error";
      env.wasm.numThreads = this.threads;
      env.wasm.wasmPaths = {
        mjs: vendor(`ort-wasm-simd-threaded.${build}mjs`),
        wasm: vendor(`ort-wasm-simd-threaded.${build}wasm`),
      };
      this.session = await InferenceSession.create(this.bytes, { executionProviders: [device] });
    } catch (error) {
      if (device === "webgpu") return this.fallBack(error);
      throw new Error(`The model cannot be started; it may be damaged: ${error.message}`);
    }
    this.means = device === "webgpu" ? "WebGPU" : `WebAssembly, ${this.threads} thread${this.threads > 1 ? "s" : ""}`;
    this.device = device;
    if (device === "wasm") this.bytes = null;
  }

  async fallBack(error) {
    console.warn(error);
    this.tell({ warning: "WebGPU fails here; WebAssembly answers instead." });
    await this.start("wasm");
  }

  /** Read an expression: its tokens, and what a visitor should know about them. */
  encode(text) {
    const { text_length, pad_token_id, keeps_end_token } = this.config.preparation;
    let { ids } = this.tokenizer.encode(text);
    const unknown = this.unknownWords(text).map((word) => `“${word}”`);
    const notes = [];
    if (unknown.length) {
      const words = new Intl.ListFormat("en").format(unknown);
      notes.push(`This model does not know the word${unknown.length > 1 ? "s" : ""} ${words}: its answer may mean nothing.`);
    }
    if (ids.length > text_length) {
      notes.push(`The expression has ${ids.length} tokens; the first ${text_length} are read.`);
      ids = [...ids.slice(0, text_length - keeps_end_token), ...(keeps_end_token ? ids.slice(-1) : [])];
    }
    const filling = Array(text_length - ids.length);
    return { ids: [...ids, ...filling.fill(pad_token_id)], attended: [...ids.map(() => 1), ...filling.fill(0)], notes };
  }

  /** The words that are replaced by the unknown token, or spelled out letter by letter. */
  unknownWords(text) {
    return [...new Set(text.match(/[^\s\p{P}]+/gu))].filter((word) => {
      const pieces = this.tokenizer.tokenize(word, { add_special_tokens: false });
      const isSpelled = pieces.length > 1 && pieces.every((piece) => [...piece.replace("##", "")].length === 1);
      return isSpelled || pieces.includes(this.unknown);
    });
  }

  /**
   * Logits of expressions about one image, each with its shape (h, w) and, from a model that judges its masks, the probability
   * that the mask is right; the graph may take a fixed number of them at a time.
   */
  async ask(pixels, encoded) {
    const number = this.config.expressions ?? encoded.length;
    const all = [];
    for (let start = 0; start < encoded.length; start += number) {
      const some = Array.from({ length: number }, (_, index) => encoded[start + index] ?? encoded[start]);
      const { data, dims, confidence } = await this.run(pixels, some);
      const area = dims[1] * dims[2];
      const logits = (index) => data.slice(index * area, (index + 1) * area);
      all.push(...some.map((_, index) => ({ logits: logits(index), shape: dims.slice(1), confidence: confidence?.[index] })));
    }
    return all.slice(0, encoded.length);
  }

  async run(pixels, encoded) {
    const { Tensor } = this.runtime;
    const whole = (lists) => new Tensor("int64", BigInt64Array.from(lists.flat(), BigInt), [lists.length, lists[0].length]);
    try {
      const { logits, confidence } = await this.session.run({
        pixel_values: new Tensor("float32", pixels, [1, 3, ...this.config.preparation.size]),
        input_ids: whole(encoded.map(({ ids }) => ids)),
        attention_mask: whole(encoded.map(({ attended }) => attended)),
      });
      return { data: await logits.getData(), dims: logits.dims, confidence: await confidence?.getData() };
    } catch (error) {
      if (this.device !== "webgpu") throw new Error(`The model cannot answer: ${error.message}`);
      await this.fallBack(error);
      return this.run(pixels, encoded);
    }
  }
}

let model;
let image; // the last that was read
let reads = 0;
let running = Promise.resolve();

const handlers = {
  async open(options) {
    model = Model.open(options, (news) => postMessage(news));
    const { config, size, means } = await model;
    return { name: config.source, precision: config.precision, size, means };
  },

  async read({ blob }) {
    const mine = ++reads;
    const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" }).catch(() => {
      throw new Error("This image cannot be decoded: the file may be damaged, or too large for this machine.");
    });
    if (mine !== reads) return bitmap.close(); // another was chosen meanwhile
    image?.bitmap.close();
    image = { bitmap, size: [bitmap.height, bitmap.width], answers: new Map() };
  },

  ask({ questions, overlaySize }) {
    const asked = image;
    running = running.catch(() => {}).then(() => answer(asked, questions, overlaySize));
    return running;
  },

  async mask({ text }) {
    return maskPng(image.answers.get(text), image.size);
  },
};

async function answer(asked, questions, overlaySize) {
  const opened = await model;
  const { preparation, reading } = opened.config;
  if (!asked.pixels) {
    const bytes = resizeBilinear(rowsOf(asked.bitmap), asked.size, preparation.size);
    asked.pixels = pixelValues(bytes, preparation.image_mean, preparation.image_std);
    asked.bitmap.close();
  }
  const encoded = questions.map(({ text }) => opened.encode(text));
  const all = await opened.ask(asked.pixels, encoded);
  const answers = questions.map(({ text, colour }, index) => {
    const found = { ...all[index], threshold: reading.threshold };
    asked.answers.set(text, found);
    return { score: readScore(found, asked.size), notes: encoded[index].notes, mask: paintMask(found, overlaySize, colour) };
  });
  return { answers, means: opened.means };
}

addEventListener("message", async ({ data: { id, kind, ...details } }) => {
  try {
    const result = await handlers[kind](details);
    postMessage({ id, result }, result?.answers?.map(({ mask }) => mask) ?? []);
  } catch (error) {
    postMessage({ id, error: error.message });
  }
});
