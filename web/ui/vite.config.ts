import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// Every file is the gateway's own and nothing is inlined: the content security policy allows 'self' alone.
export default defineConfig({
  plugins: [react()],
  base: "./",
  build: {
    outDir: "../static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    chunkSizeWarningLimit: 600,
  },
});
