// Reads a chart at the pointer: the nearest step and its value. The page is whole without it.
(() => {
  const make = (name, parent) =>
    parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const svg of document.querySelectorAll("svg.chart")) {
    const lines = [...svg.querySelectorAll("[data-points]")].map((line) => ({
      points: line.dataset.points.split(" ").map((point) => point.split(",").map(Number)),
      values: line.dataset.values.split("|"),
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
      const said = lines.map(({ points, values }) => {
        let near = 0;
        points.forEach((point, i) => {
          if (Math.abs(point[0] - x) < Math.abs(points[near][0] - x)) near = i;
        });
        const dot = make("circle", marks);
        dot.setAttribute("cx", points[near][0]);
        dot.setAttribute("cy", points[near][1]);
        dot.setAttribute("r", 3.5);
        return values[near];
      });
      const text = make("text", marks);
      text.setAttribute("x", width - 12);
      text.setAttribute("y", 11);
      text.setAttribute("text-anchor", "end");
      text.textContent = said.join("  \u00b7  ");
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
