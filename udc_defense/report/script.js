// The wipe: a slider over two pictures, and which two they are.
for (const wipe of document.querySelectorAll(".wiping")) {
  const frame = wipe.querySelector(".wipe"), slider = frame.querySelector("input");
  const pictures = wipe.closest(".example").querySelectorAll(".strip img");
  slider.addEventListener("input", () => frame.style.setProperty("--at", slider.value + "%"));
  for (const choice of wipe.querySelectorAll("select")) {
    choice.addEventListener("change", () => {
      const shown = frame.querySelector("." + choice.dataset.side), chosen = pictures[choice.selectedIndex];
      shown.src = chosen.src;
      shown.alt = chosen.alt;
    });
  }
}

// Paper shows everything.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const details of closed) details.open = true;
});
addEventListener("afterprint", () => { for (const details of closed) details.open = false; });
