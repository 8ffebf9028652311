// What Gradio's wipe lacks: words for its two pictures, and a handle that arrow keys move.
() => {
  const STEP = 20; // pixels
  const describe = () => {
    const wipe = document.querySelector("#wipe");
    if (!wipe) return;
    const names = (wipe.querySelector("[data-testid=block-label]")?.innerText ?? "").split("|").map((name) => name.trim());
    wipe.querySelectorAll("img").forEach((image, side) => { image.alt = names[side] ?? ""; });
    const handle = wipe.querySelector("[data-testid=slider]");
    if (!handle || handle.tabIndex === 0) return;
    handle.tabIndex = 0;
    handle.setAttribute("role", "group");
    handle.setAttribute("aria-label", "Border between the two pictures; arrow keys move it");
    handle.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      const box = handle.getBoundingClientRect();
      const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
      const mouse = (kind, where, to) =>
        where.dispatchEvent(new MouseEvent(kind, { clientX: to, clientY: y, view: window, bubbles: true }));
      mouse("mousedown", handle, x);
      mouse("mousemove", window, x + direction * STEP);
      mouse("mouseup", window, x + direction * STEP);
    });
  };
  new MutationObserver(describe).observe(document.body, { childList: true, subtree: true, characterData: true });
  describe();
}
