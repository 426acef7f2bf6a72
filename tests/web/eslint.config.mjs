// The lint rules for the console, its tests, the client tests and the example pages.

import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: { eqeqeq: "error", "no-unused-vars": "error", "no-var": "error", "prefer-const": "error" },
  },
  { ignores: ["**/dist/"] },
  { files: ["web/**", "examples/web/**"], languageOptions: { globals: globals.browser } },
  // Browser tests contain functions that run in the page.
  { files: ["tests/web/**"], languageOptions: { globals: { ...globals.node, ...globals.browser } } },
  { files: ["tests/clients/**", "**/*.config.*"], languageOptions: { globals: globals.node } },
  { files: ["**/*.jsx"], languageOptions: { parserOptions: { ecmaFeatures: { jsx: true } } } },
];
