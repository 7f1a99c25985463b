// Makes Model Explorer draw each pane once per frame. It asks for it some fifty times a pane while it opens, several
// times within one frame, and draws all of them; by software each takes a tenth of a second.
// In: the panes, which the page puts into `me_test` where it finds it. Out: the same pictures, those nobody sees left out.
"use strict";
(() => {
  // The browser's own, taken before the page wraps it: with that every frame would have the page looked through for changes.
  const nextFrame = window.requestAnimationFrame.bind(window);

  const sizeOf = (canvas) => `${canvas?.width}x${canvas?.height}`;

  function oncePerFrame(pane) {
    const scene = pane?.webglRendererThreejsService;
    if (typeof scene?.render !== "function") return pane; // another version of the page: it draws as it likes
    const draw = scene.render.bind(scene);
    let waiting = false, drawn = "";
    const drawNow = (given) => {
      drawn = sizeOf(scene.renderer?.domElement);
      draw(...given);
    };
    scene.render = (...given) => {
      // A canvas is empty once its size has changed, and would be seen so for a frame.
      if (drawn !== sizeOf(scene.renderer?.domElement)) return drawNow(given);
      if (waiting) return;
      waiting = true;
      nextFrame(() => {
        waiting = false;
        drawNow(given);
      });
    };
    return pane;
  }

  const found = (window.me_test ??= { renderers: {} });
  found.renderers = new Proxy(found.renderers, {
    set: (panes, at, pane) => Reflect.set(panes, at, oncePerFrame(pane)),
  });
})();
