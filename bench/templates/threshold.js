"use strict";
// Moves the thresholds of a cascade over predictions of all its members. Without this script the
// page shows the curve and its points as they are.
(() => {
  const data = JSON.parse(document.getElementById("threshold-data").textContent);
  const panel = document.getElementById("thresholds");
  const sliders = [...panel.querySelectorAll("input[type=range]")];
  const early = sliders.length, last = early, count = data.right.length;
  // What a slider cannot stand at exactly is kept beside it.
  const own = sliders.map((slider) => Number(slider.dataset.own));
  let thresholds = own;
  const part = (name) => panel.querySelector(`[data-part="${name}"]`);
  const percent = (share) => `${(share * 100).toFixed(1)} %`;
  const macs = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : `${(n / 1e6).toFixed(n < 1e8 ? 1 : 0)} M`);

  // A threshold above 1 is one that no confidence reaches.
  const named = (threshold) => (threshold > 1 ? "never" : percent(threshold));

  function at() {
    const hits = new Array(last + 1).fill(0);
    let right = 0;
    for (let photo = 0; photo < count; photo++) {
      let stage = 0;
      while (stage < last && data.confidences[photo * early + stage] < thresholds[stage]) stage++;
      hits[stage]++;
      right += (data.right[photo] >> stage) & 1;
    }
    const mean = (costs) => costs.reduce((sum, cost, stage) => sum + cost * hits[stage], 0) / count;
    return { hits, top1: right / count, macs: mean(data.macs), ms: data.ms && mean(data.ms) };
  }

  const picture = document.querySelector("#trade-off svg");
  let mark = null;
  if (picture) {
    mark = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    mark.setAttribute("class", "chosen");
    mark.setAttribute("r", "8");
    picture.append(mark);
  }
  const place = ([low, high], [from, to], value) =>
    from + Math.min(1, Math.max(0, (value - low) / (high - low))) * (to - from);

  function show() {
    const found = at();
    sliders.forEach((slider, stage) => {
      const told = named(thresholds[stage]);
      slider.setAttribute("aria-valuetext", told === "never" ? "never answers" : `from ${told}`);
      part(`threshold-${stage}`).textContent = told;
    });
    part("top1").textContent = percent(found.top1);
    part("macs").textContent = macs(found.macs);
    if (found.ms !== null) part("ms").textContent = `${found.ms.toPrecision(3)} ms`;
    found.hits.forEach((hits, stage) => {
      part(`hits-${stage}`).textContent = `${hits} (${percent(hits / count)})`;
      part(`bar-${stage}`).setAttribute("width", (100 * hits) / count);
    });
    if (mark) {
      mark.setAttribute("cx", place(data.x, data.across, found.macs));
      mark.setAttribute("cy", place(data.y, data.up, found.top1));
    }
  }

  function choose(wanted) {
    thresholds = own.map((one, stage) => (Number.isFinite(wanted[stage]) ? wanted[stage] : one));
    sliders.forEach((slider, stage) => (slider.value = String(thresholds[stage])));
    show();
  }

  function move(slider) {
    const moved = sliders.indexOf(slider);
    thresholds = thresholds.map((one, stage) => (stage === moved ? Number(slider.value) : one));
    show();
  }

  // A link with #t=0.5,0.7 opens the page at these thresholds.
  const linked = () => {
    const found = /^#t=([\d.,]+)$/.exec(location.hash);
    choose(found ? found[1].split(",").map(Number) : own);
  };
  sliders.forEach((slider) => slider.addEventListener("input", () => move(slider)));
  part("reset").addEventListener("click", () => choose(own));
  addEventListener("hashchange", linked);
  panel.hidden = false;
  linked();
})();
