// The page: an image, what is asked about it, and the masks that its worker answers with.

const MOST_PIXELS = 89_478_485; // as PIL.Image.MAX_IMAGE_PIXELS
const MOST_EXPRESSIONS = 8;
const OVERLAY_SIDE = 1024; // pixels of a mask's longer side, as it is shown
const DOWNLOAD_SIDE = 2560; // at most, of an image that is downloaded with its masks

const COLOURS = [
  [255, 59, 48],
  [255, 204, 0],
  [0, 132, 255],
  [0, 199, 120],
  [200, 80, 230],
  [255, 140, 26],
  [90, 210, 250],
  [255, 120, 180],
];

/** Start the worker, from a blob: such a worker inherits the page's policy, so that it cannot reach elsewhere either. */
function startWorker(hear) {
  const source = new Blob([`import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(source), { type: "module" });
  const waiting = new Map();
  let last = 0;
  worker.addEventListener("message", ({ data: { id, result, error, ...news } }) => {
    if (id === undefined) return hear(news);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(`The page's worker stopped: ${event.message ?? "it cannot be started"}.`));
    waiting.clear();
  });
  return (kind, details) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      worker.postMessage({ id: last, kind, ...details });
    });
}

/** Whether WebAssembly has SIMD: a module of one function that uses it. */
function hasSimd() {
  return WebAssembly.validate(
    Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11),
  );
}

async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !adapter.info?.isFallbackAdapter && "Suspending" in WebAssembly);
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function download(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

const slug = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);

function startPage() {
  const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
  const shown = new Map(); // answers by their expression: { colour, row, canvas }
  let call;
  let chosen = 0; // counts images that were chosen, so that the last one is shown
  let turn = 0; // counts images that were shown, so that an answer about an earlier one is dropped
  let overlaySize;
  let stream;

  const say = (text) => (at.status.textContent = text);
  const complain = (text) => (at.problem.textContent = text);
  const attempt = (work) => () => work().catch((error) => complain(error.message));

  function hear({ progress, warning }) {
    if (warning) at.notice.textContent = warning;
    if (progress === undefined) return;
    at.progress.hidden = progress === null;
    at.progress.value = progress ?? 1;
    const text = progress === null ? "Starting the model …" : "Loading the model …";
    if (text !== at.status.textContent) say(text); // once, since it is read aloud
  }

  // -- Images

  async function showImage(blob, { alt = "Your image", suggestions = [], isDrawn = false } = {}) {
    const mine = ++chosen;
    complain("");
    const loaded = make("img", { id: "image", alt, src: URL.createObjectURL(blob) });
    try {
      await new Promise((resolve, reject) => {
        loaded.onload = resolve;
        loaded.onerror = () => reject(new Error("This file is no image that this browser can read."));
      });
      const { naturalWidth: width, naturalHeight: height } = loaded;
      if (width * height > MOST_PIXELS) {
        throw new Error(`This image has ${width} x ${height} pixels; at most ${Math.floor(MOST_PIXELS / 1e6)} million can be read.`);
      }
      await call("read", { blob });
      if (mine !== chosen) return;
      turn++;
      const scale = OVERLAY_SIDE / Math.max(width, height);
      overlaySize = [height, width].map((side) => Math.max(1, Math.round(side * scale)));
      at.frame.style.setProperty("--ratio", width / height);
      URL.revokeObjectURL(at.image.src);
      at.image.replaceWith(loaded);
      at.image = loaded;
      clear();
      suggest(suggestions);
      at.limits.classList.toggle("urgent", !isDrawn);
      for (const scene of at.scenes.children) scene.setAttribute("aria-pressed", scene.firstChild.alt === alt);
    } catch (error) {
      URL.revokeObjectURL(loaded.src);
      if (mine === chosen) complain(error.message);
    }
  }

  async function showScene({ file, alt, expressions }) {
    const response = await fetch(file).catch(() => null);
    if (!response?.ok) return complain(`The scene ${file} cannot be fetched.`);
    await showImage(await response.blob(), { alt, suggestions: expressions, isDrawn: true });
  }

  function suggest(expressions) {
    at.suggestions.replaceChildren(
      ...expressions.map((text) => make("button", { type: "button", className: "chip", textContent: text, onclick: () => ask([text]) })),
    );
  }

  function take(files) {
    if (files.length) showImage(files[0]);
  }

  async function openCamera() {
    complain("");
    at.camera.disabled = true; // until the visitor has allowed it
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
      at.video.srcObject = stream;
      toggleCamera(true);
    } catch (error) {
      complain(`The camera cannot be used: ${error.message}`);
    }
    at.camera.disabled = false;
  }

  function toggleCamera(isOn) {
    at.stage.classList.toggle("filming", isOn);
    for (const name of ["video", "shoot", "cancel"]) at[name].hidden = !isOn;
    at.camera.hidden = isOn;
    at.shoot.disabled = true; // until there is something to see
  }

  function closeCamera() {
    for (const track of stream.getTracks()) track.stop();
    stream = at.video.srcObject = null;
    toggleCamera(false);
    at.camera.focus();
  }

  async function shoot() {
    const canvas = new OffscreenCanvas(at.video.videoWidth, at.video.videoHeight);
    canvas.getContext("2d").drawImage(at.video, 0, 0);
    closeCamera();
    await showImage(await canvas.convertToBlob());
  }

  // -- Questions and answers

  async function ask(texts) {
    complain("");
    const fresh = [...new Set(texts.map((text) => text.trim()).filter(Boolean))].filter((text) => !shown.has(text));
    const wordless = fresh.find((text) => !/[\p{L}\p{N}]/u.test(text));
    if (wordless !== undefined || !texts.some((text) => text.trim())) return complain("Say in words what to look for.");
    if (!overlaySize) return complain("There is no image yet.");
    if (shown.size + fresh.length > MOST_EXPRESSIONS) return complain(`At most ${MOST_EXPRESSIONS} expressions are shown; remove some first.`);
    at.expression.value = "";
    if (!fresh.length) return;
    const mine = turn;
    const start = performance.now();
    const questions = fresh.map((text) => ({ text, colour: addAnswer(text) }));
    if (at.progress.hidden) say("Looking …");
    try {
      const { answers, means } = await call("ask", { questions, overlaySize });
      if (mine !== turn) return;
      answers.forEach((answer, index) => fillAnswer(fresh[index], answer));
      say(`Answered in ${((performance.now() - start) / 1000).toFixed(2)} s (${means}).`);
    } catch (error) {
      if (mine !== turn) return;
      fresh.forEach(removeAnswer);
      say("");
      complain(error.message);
    }
  }

  function addAnswer(text) {
    const used = [...shown.values()].map((answer) => answer.colour);
    const colour = COLOURS.find((each) => !used.includes(each));
    const score = make("span", { className: "score", textContent: "…" });
    const toggle = make(
      "button",
      { type: "button", className: "toggle", title: "Show or hide this mask" },
      make("span", { className: "swatch" }),
      make("span", { className: "text", textContent: text }),
      score,
    );
    toggle.setAttribute("aria-pressed", true);
    const icon = (name, label, onclick) => {
      const drawing = at.icons.content.querySelector(`.${name}`).cloneNode(true);
      const button = make("button", { type: "button", className: `icon ${name}`, title: label, onclick }, drawing);
      button.setAttribute("aria-label", `${label}: ${text}`);
      return button;
    };
    const saveMask = async () => download(await call("mask", { text }), `mask-${slug(text)}.png`);
    const save = icon("save", "Download the mask", attempt(saveMask));
    const remove = icon("remove", "Remove", () => {
      removeAnswer(text);
      at.expression.focus();
    });
    const row = make("li", { className: "waiting" }, toggle, save, remove);
    row.style.setProperty("--colour", `rgb(${colour})`);
    const canvas = make("canvas", { hidden: true });
    at.masks.append(canvas);
    at.answers.append(row);
    const answer = { colour, row, canvas, score };
    toggle.onclick = () => {
      const isShown = toggle.getAttribute("aria-pressed") !== "true";
      toggle.setAttribute("aria-pressed", isShown);
      canvas.classList.toggle("off", !isShown);
    };
    const light = (isLit) => {
      at.masks.classList.toggle("lighting", isLit);
      canvas.classList.toggle("lit", isLit);
    };
    row.onpointerenter = row.onfocus = () => light(true);
    row.onpointerleave = row.onblur = () => light(false);
    shown.set(text, answer);
    updateTools();
    return colour;
  }

  function fillAnswer(text, { score, notes, mask }) {
    const answer = shown.get(text);
    if (!answer) return; // removed meanwhile
    answer.row.classList.remove("waiting");
    answer.row.style.setProperty("--score", score);
    answer.score.textContent = score ? score.toFixed(2) : "nothing found";
    answer.row.append(...notes.map((note) => make("p", { className: "note", textContent: note })));
    Object.assign(answer.canvas, { width: mask.width, height: mask.height, hidden: false });
    answer.canvas.getContext("bitmaprenderer").transferFromImageBitmap(mask);
  }

  function removeAnswer(text) {
    const { row, canvas } = shown.get(text);
    row.remove();
    canvas.remove();
    at.masks.classList.remove("lighting");
    shown.delete(text);
    updateTools();
  }

  function clear() {
    for (const text of [...shown.keys()]) removeAnswer(text);
  }

  function updateTools() {
    at.tools.hidden = !shown.size;
    for (const chip of at.suggestions.children) chip.hidden = shown.has(chip.textContent);
  }

  async function saveOverlay() {
    const { naturalWidth, naturalHeight } = at.image;
    const scale = Math.min(1, DOWNLOAD_SIDE / Math.max(naturalWidth, naturalHeight));
    const sides = [naturalWidth, naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = new OffscreenCanvas(...sides);
    const context = canvas.getContext("2d");
    for (const layer of [at.image, ...at.masks.querySelectorAll("canvas:not(.off, [hidden])")]) context.drawImage(layer, 0, 0, ...sides);
    download(await canvas.convertToBlob(), "overlay.png");
  }

  function listen() {
    at.form.onsubmit = (event) => {
      event.preventDefault();
      ask([at.expression.value]);
    };
    at.expression.onpaste = (event) => {
      const lines = event.clipboardData.getData("text").split(/\r?\n/).filter((line) => line.trim());
      if (lines.length > 1) {
        event.preventDefault();
        ask(lines);
      }
    };
    at.file.onchange = () => {
      take(at.file.files);
      at.file.value = ""; // so that the same file can be chosen again
    };
    at.camera.onclick = openCamera;
    at.video.onloadeddata = () => {
      at.shoot.disabled = false;
      at.shoot.focus();
    };
    at.shoot.onclick = attempt(shoot);
    at.cancel.onclick = closeCamera;
    at.overlay.onclick = attempt(saveOverlay);
    at.clear.onclick = clear;
    addEventListener("paste", (event) => take(event.clipboardData.files));
    addEventListener("dragover", (event) => {
      event.preventDefault();
      at.stage.classList.add("dropping");
    });
    addEventListener("dragleave", (event) => event.relatedTarget ?? at.stage.classList.remove("dropping"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      at.stage.classList.remove("dropping");
      take(event.dataTransfer.files);
    });
    addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      if (stream) closeCamera();
      else at.expression.value = "";
    });
  }

  async function start() {
    if (!hasSimd()) throw new Error("This browser's WebAssembly has no SIMD, which the model needs: please take a newer browser.");
    call = startWorker(hear);
    const wanted = new URLSearchParams(location.search);
    const options = { device: wanted.get("device"), threads: Number(wanted.get("threads")) || undefined, hasGpu: await hasGpu() };
    const opened = call("open", options);
    opened.catch(() => {}); // it is awaited below
    const response = await fetch("site.json");
    if (!response.ok) throw new Error("This page is not built: hf-ris demo --web does it.");
    const site = await response.json();
    at.limits.hidden = !site.for_drawings;
    at.scenes.replaceChildren(
      ...site.scenes.map((scene) =>
        make("button", { type: "button", title: scene.alt, onclick: () => showScene(scene) }, make("img", { src: scene.file, alt: scene.alt })),
      ),
    );
    const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
    at.camera.hidden = !devices.some(({ kind }) => kind === "videoinput");
    listen();
    await showScene(site.scenes[0]);
    const { name, precision, size, means } = await opened;
    at.about.textContent = `${name}, ${(size / 1e6).toFixed(0)} MB, ${precision}. ${means}.`;
    say("Ready.");
    if (!shown.size && site.for_drawings) await ask(site.scenes[0].expressions.slice(0, 1)); // shows what the page does
  }

  start().catch((error) => {
    at.progress.hidden = true;
    say("");
    complain(error.message);
  });
}

startPage();
