// Three planes through one patient. Volumes are R, A, S, x fastest, unpacked when first needed.
"use strict";
(() => {
  const root = document.getElementById("viewer-box");
  if (!root) return;
  const {cases, regions} = JSON.parse(document.getElementById("viewer-cases").textContent);
  // radiological, as in the pictures above: the patient's right is on the left, the nose points left
  const PLANES = [
    {name: "axial", across: 2, columns: 0, rows: 1, sides: ["R", "L"]},
    {name: "coronal", across: 1, columns: 0, rows: 2, sides: ["R", "L"]},
    {name: "sagittal", across: 0, columns: 1, rows: 2, sides: ["A", "P"]},
  ];
  const NEEDS = "This browser cannot unpack the volumes: it needs DecompressionStream, as browsers since 2023 have.";
  const TINT = 0.35;
  const $ = (name) => root.querySelector(`[data-role="${name}"]`);
  const message = $("message");
  const colours = regions.map((region) => [1, 3, 5].map((at) => parseInt(region.colour.slice(at, at + 2), 16)));
  const state = {index: 0, modality: 1, prediction: 0, at: [0, 0, 0], shown: null, wanted: 0};

  const unpacked = new Map();
  const unpack = (text) => {
    if (!unpacked.has(text)) {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(text, new Response(stream).arrayBuffer().then((found) => new Uint8Array(found)));
    }
    return unpacked.get(text);
  };

  const views = PLANES.map((plane) => {
    const canvas = root.querySelector(`canvas[data-plane="${plane.name}"]`);
    const slider = root.querySelector(`input[data-plane="${plane.name}"]`);
    return {...plane, canvas, slider, off: document.createElement("canvas"), frame: null};
  });
  const checked = (name) => $(name).checked;
  const visible = regions.map((_, bit) => root.querySelector(`[data-region="${bit}"]`));

  const place = (at) => {
    const {shape} = state.shown;
    return at[0] + shape[0] * (at[1] + shape[1] * at[2]);
  };

  // the voxel under column c and row r of a plane's picture
  const voxel = (view, c, r) => {
    const at = [...state.at];
    at[view.columns] = state.shown.shape[view.columns] - 1 - c;
    at[view.rows] = state.shown.shape[view.rows] - 1 - r;
    return at;
  };

  // the values of a volume in a plane, row by row as they are seen
  const cut = (view, volume) => {
    const {shape} = state.shown;
    const steps = [1, shape[0], shape[0] * shape[1]];
    const [width, height] = [shape[view.columns], shape[view.rows]];
    const first = state.at[view.across] * steps[view.across];
    const values = new Uint8Array(width * height);
    for (let r = 0; r < height; r += 1) {
      const row = first + (height - 1 - r) * steps[view.rows];
      for (let c = 0; c < width; c += 1) {
        values[r * width + c] = volume[row + (width - 1 - c) * steps[view.columns]];
      }
    }
    return values;
  };

  const innermost = (bits) => {
    for (let bit = regions.length - 1; bit >= 0; bit -= 1) {
      if (bits & (1 << bit) && visible[bit].checked) return bit;
    }
    return -1;
  };

  const paint = (view) => {
    const {shape, image, reference} = state.shown;
    const [width, height] = [shape[view.columns], shape[view.rows]];
    view.off.width = width;
    view.off.height = height;
    const context = view.off.getContext("2d");
    const pixels = context.createImageData(width, height);
    const [grey, bits] = [cut(view, image), cut(view, reference)];
    const tinted = checked("reference");
    for (let at = 0; at < grey.length; at += 1) {
      const bit = tinted && bits[at] ? innermost(bits[at]) : -1;
      for (let channel = 0; channel < 3; channel += 1) {
        pixels.data[4 * at + channel] = bit < 0 ? grey[at] : (1 - TINT) * grey[at] + TINT * colours[bit][channel];
      }
      pixels.data[4 * at + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  };

  const outline = (view, context, frame) => {
    const {shape, prediction} = state.shown;
    const [width, height] = [shape[view.columns], shape[view.rows]];
    const bits = cut(view, prediction);
    const inside = (c, r, bit) =>
      c >= 0 && r >= 0 && c < width && r < height && (bits[r * width + c] & bit) !== 0;
    regions.forEach((region, number) => {
      if (!visible[number].checked) return;
      const bit = 1 << number;
      context.beginPath();
      for (let r = 0; r < height; r += 1) {
        for (let c = 0; c < width; c += 1) {
          if (!inside(c, r, bit)) continue;
          const [left, top] = [frame.x + c * frame.dx, frame.y + r * frame.dy];
          const [right, bottom] = [left + frame.dx, top + frame.dy];
          if (!inside(c - 1, r, bit)) context.moveTo(left, top), context.lineTo(left, bottom);
          if (!inside(c + 1, r, bit)) context.moveTo(right, top), context.lineTo(right, bottom);
          if (!inside(c, r - 1, bit)) context.moveTo(left, top), context.lineTo(right, top);
          if (!inside(c, r + 1, bit)) context.moveTo(left, bottom), context.lineTo(right, bottom);
        }
      }
      context.lineWidth = region.width * frame.ratio;
      context.strokeStyle = region.colour;
      context.stroke();
    });
  };

  const crosshair = (view, context, frame, side) => {
    const {shape} = state.shown;
    const x = frame.x + (shape[view.columns] - 0.5 - state.at[view.columns]) * frame.dx;
    const y = frame.y + (shape[view.rows] - 0.5 - state.at[view.rows]) * frame.dy;
    const gap = 9 * frame.ratio;
    context.beginPath();
    for (const [from, to] of [[0, x - gap], [x + gap, side]]) context.moveTo(from, y), context.lineTo(to, y);
    for (const [from, to] of [[0, y - gap], [y + gap, side]]) context.moveTo(x, from), context.lineTo(x, to);
    context.lineWidth = frame.ratio;
    context.strokeStyle = "rgba(255, 255, 255, 0.45)";
    context.stroke();
  };

  const draw = (view) => {
    const {shape, spacing} = state.shown;
    const ratio = window.devicePixelRatio || 1;
    const side = Math.max(64, Math.round(view.canvas.clientWidth * ratio));
    view.canvas.width = view.canvas.height = side;
    const scale = side / Math.max(...shape.map((count, axis) => count * spacing[axis])); // px a mm
    const [dx, dy] = [spacing[view.columns] * scale, spacing[view.rows] * scale];
    const [wide, high] = [shape[view.columns] * dx, shape[view.rows] * dy];
    const frame = {x: (side - wide) / 2, y: (side - high) / 2, dx, dy, ratio};
    view.frame = frame;
    const context = view.canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    paint(view);
    context.imageSmoothingQuality = "high";
    context.drawImage(view.off, frame.x, frame.y, wide, high);
    if (checked("prediction")) outline(view, context, frame);
    if (checked("cross")) crosshair(view, context, frame, side);
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.fillStyle = "#b8bec5";
    context.fillText(view.sides[0], 6 * ratio, 16 * ratio);
    context.fillText(view.sides[1], side - 14 * ratio, 16 * ratio);
    view.slider.value = state.at[view.across];
  };

  const named = (bits) => {
    const found = regions.filter((_, bit) => bits & (1 << bit)).map((region) => region.name);
    return found.length ? found.join(" ") : "none";
  };

  const redraw = () => {
    if (!state.shown) return;
    views.forEach(draw);
    const from = place(state.at);
    const [x, y, z] = state.at;
    $("readout").textContent = `voxel ${x + 1}, ${y + 1}, ${z + 1}: reference ` +
      `${named(state.shown.reference[from])}, prediction ${named(state.shown.prediction[from])}`;
  };

  const load = async () => {
    const turn = (state.wanted += 1);
    const found = cases[state.index];
    const predicted = found.predictions[state.prediction];
    message.textContent = "unpacking …";
    const [image, reference, prediction] = await Promise.all(
      [found.images[state.modality].bytes, found.reference, predicted.bytes].map(unpack));
    if (turn !== state.wanted) return; // something else was asked for meanwhile
    state.shown = {shape: found.shape, spacing: found.spacing, image, reference, prediction};
    views.forEach((view) => { view.slider.max = found.shape[view.across] - 1; });
    const scores = Object.entries(predicted.scores).map(([name, value]) => `${name} ${value.toFixed(3)}`);
    $("scores").textContent = scores.length ? `Dice ${scores.join(", ")}` : "";
    $("synthetic").hidden = !found.synthetic;
    message.textContent = found.note;
    redraw();
    root.dataset.ready = "1";
  };

  const guarded = () => load().catch((error) => { message.textContent = `The viewer failed: ${error.message}`; });

  const fill = (role, names, chosen) => {
    $(role).replaceChildren(...names.map((name, at) => new Option(name, at, false, at === chosen)));
  };

  const open = (index) => {
    const found = cases[index];
    const before = state.shown && cases[state.index].predictions[state.prediction].system;
    state.index = index;
    state.at = [...found.start];
    state.modality = Math.min(state.modality, found.images.length - 1);
    state.prediction = Math.max(0, found.predictions.findIndex((one) => one.system === before));
    fill("modality", found.images.map((image) => image.name), state.modality);
    fill("system", found.predictions.map((one) => one.system), state.prediction);
    guarded();
  };

  const move = (axis, to) => {
    if (!state.shown) return;
    state.at[axis] = Math.min(state.shown.shape[axis] - 1, Math.max(0, to));
    redraw();
  };

  for (const view of views) {
    const point = (event) => {
      if (!state.shown || !view.frame) return;
      const box = view.canvas.getBoundingClientRect();
      const zoom = view.canvas.width / box.width;
      const c = Math.floor(((event.clientX - box.left) * zoom - view.frame.x) / view.frame.dx);
      const r = Math.floor(((event.clientY - box.top) * zoom - view.frame.y) / view.frame.dy);
      const at = voxel(view, c, r);
      move(view.columns, at[view.columns]);
      move(view.rows, at[view.rows]);
    };
    view.canvas.addEventListener("pointerdown", (event) => {
      view.canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    view.canvas.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
    view.canvas.addEventListener("keydown", (event) => {
      const steps = {
        ArrowLeft: [view.columns, 1], ArrowRight: [view.columns, -1], ArrowUp: [view.rows, 1],
        ArrowDown: [view.rows, -1], PageUp: [view.across, 1], PageDown: [view.across, -1],
      };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const [axis, by] = steps[event.key];
      move(axis, state.at[axis] + by);
    });
    view.slider.addEventListener("input", () => move(view.across, Number(view.slider.value)));
  }
  $("case").addEventListener("change", (event) => open(Number(event.target.value)));
  $("modality").addEventListener("change", (event) => { state.modality = Number(event.target.value); guarded(); });
  $("system").addEventListener("change", (event) => { state.prediction = Number(event.target.value); guarded(); });
  for (const box of root.querySelectorAll("input[type=checkbox]")) box.addEventListener("change", redraw);
  window.addEventListener("resize", redraw);

  if (typeof DecompressionStream === "undefined") {
    message.textContent = NEEDS;
    return;
  }
  fill("case", cases.map((one) => (one.place ? `${one.place}: ${one.id}` : one.id)), 0);
  open(0);
})();
