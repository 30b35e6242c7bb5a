// What the processors of hf_ris compute, with the same numbers: from an image to the model's input, from logits to masks.

const BAND_PIXELS = 2 ** 20; // an image is read in bands of rows, so that memory does not grow with it
const RING = 3; // pixels around a mask that is shown

// ---- From an image to the model's input ------------------------------------------------------------------------------------

/**
 * Resize as Pillow's `BILINEAR` does, to the same bytes: a triangle that widens as the image shrinks, first across, then down, with
 * weights of 22 bits behind the point.
 *
 * @param {(top: number, rows: number) => Uint8ClampedArray} readRows Gives rows of the image, RGBA; the fourth channel is not read.
 * @param {[number, number]} from Height and width of the image.
 * @param {[number, number]} to Height and width of the result.
 * @returns {Uint8ClampedArray} RGB, of shape (height, width, 3).
 */
export function resizeBilinear(readRows, [height, width], [newHeight, newWidth]) {
  if (height > 100 * width && newHeight < height) {
    // Pillow turns the order round for very tall images.
    const low = resizeDown(resizeAcross(readRows, [height, width], width), [height, width], newHeight);
    const readLow = (top, rows) => low.subarray(top * width * 3, (top + rows) * width * 3);
    return resizeAcross(readLow, [newHeight, width], newWidth, 3);
  }
  return resizeDown(resizeAcross(readRows, [height, width], newWidth), [height, newWidth], newHeight);
}

function resizeAcross(readRows, [height, width], newWidth, channels = 4) {
  const columns = triangles(width, newWidth);
  const result = new Uint8ClampedArray(height * newWidth * 3);
  const bandRows = Math.max(1, Math.floor(BAND_PIXELS / width));
  let target = 0;
  for (let top = 0; top < height; top += bandRows) {
    const rows = Math.min(bandRows, height - top);
    const band = readRows(top, rows);
    for (let row = 0; row < rows; row++) {
      for (const { start, weights } of columns) {
        const source = (row * width + start) * channels;
        for (let channel = 0; channel < 3; channel++) result[target++] = weigh(band, source + channel, channels, weights);
      }
    }
  }
  return result;
}

function resizeDown(bytes, [height, width], newHeight) {
  const stride = width * 3;
  const result = new Uint8ClampedArray(newHeight * stride);
  triangles(height, newHeight).forEach(({ start, weights }, row) => {
    for (let index = 0; index < stride; index++) {
      result[row * stride + index] = weigh(bytes, start * stride + index, stride, weights);
    }
  });
  return result;
}

function weigh(bytes, start, step, weights) {
  let sum = 1 << 21; // one half
  for (let tap = 0; tap < weights.length; tap++) sum += bytes[start + tap * step] * weights[tap];
  return sum >> 22;
}

/** For each pixel of a side, where its neighbours begin on the side it is made from, and their weights. */
function triangles(side, newSide) {
  const scale = side / newSide;
  const reach = Math.max(scale, 1);
  const steepness = 1 / reach;
  return Array.from({ length: newSide }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(side, Math.trunc(centre + reach + 0.5));
    const heights = Array.from({ length: end - start }, (_, tap) =>
      Math.max(0, 1 - Math.abs((tap + start - centre + 0.5) * steepness)),
    );
    const total = heights.reduce((sum, each) => sum + each, 0);
    return { start, weights: Int32Array.from(heights, (each) => Math.trunc((each / total) * 2 ** 22 + 0.5)) };
  });
}

/** Bytes (height, width, 3) as the model's input (3, height, width), scaled and normalised in single precision as by NumPy. */
export function pixelValues(rgb, mean, std) {
  const round = Math.fround;
  const tables = mean.map((each, channel) =>
    Float32Array.from({ length: 256 }, (_, byte) => round(round(byte * (1 / 255)) - round(each)) / round(std[channel])),
  );
  const plane = rgb.length / 3;
  return Float32Array.from(rgb, (_, index) => tables[Math.floor(index / plane)][rgb[(index % plane) * 3 + Math.floor(index / plane)]]);
}

/** Pixels of a bitmap as rows of RGBA; transparency is laid over white. */
export function rowsOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return (top, rows) => {
    canvas.height = rows; // this empties it
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, rows);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, bitmap.width, rows).data;
  };
}

// ---- From logits to masks --------------------------------------------------------------------------------------------------

/** Rows of the logits (h, w), enlarged bilinearly with aligned corners; each overwrites the one before. */
export function* enlargedRows(logits, [h, w], [height, width]) {
  const step = (few, many) => (many > 1 ? (few - 1) / (many - 1) : 0);
  const left = Int32Array.from({ length: width }, (_, x) => Math.floor(x * step(w, width)));
  const share = Float32Array.from(left, (column, x) => x * step(w, width) - column);
  const blended = new Float32Array(w + 1);
  const row = new Float32Array(width);
  for (let y = 0; y < height; y++) {
    const above = Math.floor(y * step(h, height));
    const below = Math.min(above + 1, h - 1);
    const weight = y * step(h, height) - above;
    for (let x = 0; x < w; x++) blended[x] = logits[above * w + x] * (1 - weight) + logits[below * w + x] * weight;
    blended[w] = blended[w - 1];
    for (let x = 0; x < width; x++) row[x] = blended[left[x]] * (1 - share[x]) + blended[left[x] + 1] * share[x];
    yield row;
  }
}

const logit = (probability) => Math.log(probability / (1 - probability));

/** The score of a mask of this size: the model's own, or the mean foreground probability inside it; 0 for an empty mask. */
export function readScore(answer, size) {
  const limit = logit(answer.threshold);
  let [total, count] = [0, 0];
  for (const row of enlargedRows(answer.logits, answer.shape, size)) {
    for (const value of row) {
      if (value > limit) {
        total += 1 / (1 + Math.exp(-value));
        count++;
      }
    }
  }
  return count ? (answer.confidence ?? total / count) : 0;
}

/** The mask of an image of this size as a PNG: grey, 0 and 255. It is written row by row, since a photo has many. */
export async function maskPng(answer, [height, width]) {
  const limit = logit(answer.threshold);
  const deflate = new CompressionStream("deflate");
  const packed = new Response(deflate.readable).arrayBuffer();
  const writer = deflate.writable.getWriter();
  for (const row of enlargedRows(answer.logits, answer.shape, [height, width])) {
    const line = new Uint8Array(width + 1); // its first byte says: as it is
    row.forEach((value, x) => (line[x + 1] = value > limit ? 255 : 0));
    await writer.write(line);
  }
  await writer.close();
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits; the zeros that follow mean: grey, not interlaced
  const chunks = [pngChunk("IHDR", header.buffer), pngChunk("IDAT", await packed), pngChunk("IEND", new ArrayBuffer(0))];
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...chunks], { type: "image/png" });
}

function pngChunk(name, content) {
  const bytes = new Uint8Array(content.byteLength + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.byteLength);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(new Uint8Array(content), 8);
  let check = ~0;
  for (const byte of bytes.subarray(4, -4)) {
    check ^= byte;
    for (let bit = 0; bit < 8; bit++) check = check & 1 ? (check >>> 1) ^ 0xedb88320 : check >>> 1;
  }
  view.setUint32(bytes.length - 4, ~check);
  return bytes;
}

/** A mask as it is shown: filled with a colour, smooth at its edge, in a ring of `RING` pixels. */
export function paintMask(answer, [height, width], [red, green, blue]) {
  const limit = logit(answer.threshold);
  const values = new Float32Array(height * width);
  let filled = 0;
  for (const row of enlargedRows(answer.logits, answer.shape, [height, width])) {
    values.set(row, filled);
    filled += width;
  }
  const image = new ImageData(width, height);
  for (let y = 0, index = 0; y < height; y++) {
    const [up, down] = [y ? width : 0, y < height - 1 ? width : 0];
    for (let x = 0; x < width; x++, index++) {
      const across = values[index + (x < width - 1)] - values[index - (x > 0)];
      const along = values[index + down] - values[index - up];
      const depth = (2 * (values[index] - limit)) / (Math.hypot(across, along) + 1e-6); // pixels from the edge inwards
      if (depth > -0.5) image.data.set([red, green, blue, 255 * Math.min(1, depth + 0.5)], index * 4);
    }
  }
  const solid = new OffscreenCanvas(width, height);
  solid.getContext("2d").putImageData(image, 0, 0);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  for (let angle = 0; angle < 2 * Math.PI; angle += Math.PI / 6) {
    context.drawImage(solid, RING * Math.cos(angle), RING * Math.sin(angle));
  }
  context.globalCompositeOperation = "destination-out"; // the ring is what remains around the mask
  context.drawImage(solid, 0, 0);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 0.5;
  context.drawImage(solid, 0, 0);
  return canvas.transferToImageBitmap();
}
