import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./app";
import { apply } from "./lib/theme";
import "uplot/dist/uPlot.min.css";
import "./styles/tokens.css";
import "./styles/elements.css";
import "./styles/shell.css";
import "./styles/parts.css";
import "./styles/pages.css";

apply();
const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
