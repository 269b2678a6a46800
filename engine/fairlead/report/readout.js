// Reads a chart at the pointer: the nearest step and its value. The page is whole without it.
(() => {
  const make = (name, parent) =>
    parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const svg of document.querySelectorAll("svg.chart")) {
    const lines = [...svg.querySelectorAll("[data-points]")].map((line) => ({
      points: line.dataset.points.split(" ").map((point) => point.split(",").map(Number)),
      values: line.dataset.values.split("|").map((value) => value.split(": ")),
      kind: line.getAttribute("class"),
    }));
    if (!lines.length) continue;
    const { width } = svg.viewBox.baseVal;
    let marks = null;
    const show = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) * width) / box.width;
      marks?.remove();
      marks = make("g", svg);
      marks.setAttribute("class", "readout");
      const said = lines.map(({ points, values, kind }) => {
        let near = 0;
        points.forEach((point, i) => {
          if (Math.abs(point[0] - x) < Math.abs(points[near][0] - x)) near = i;
        });
        const dot = make("circle", marks);
        dot.setAttribute("cx", points[near][0]);
        dot.setAttribute("cy", points[near][1]);
        dot.setAttribute("r", 3.5);
        return { at: values[near][0], value: values[near][1], kind };
      });
      const text = make("text", marks);
      text.setAttribute("x", width - 12);
      text.setAttribute("y", 11);
      text.setAttribute("text-anchor", "end");
      // Where all lines are read at one place, it is named once: on a phone there is no room.
      const once = said.every(({ at }) => at === said[0].at);
      said.forEach(({ at, value, kind }, i) => {
        if (i) text.append("  \u00b7  ");
        const part = make("tspan", text);
        if (lines.length > 1) part.setAttribute("class", kind);
        part.textContent = once && i ? value : `${at}: ${value}`;
      });
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", () => {
      marks?.remove();
      marks = null;
    });
  }
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
  });
})();
