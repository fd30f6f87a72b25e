import { defineConfig } from "vitest/config"

// Tests run against the sources of the packages. What is published is proven by test/integration/package.test.ts.
const sources = { ssr: { resolve: { conditions: ["@llm-resilience/source", "node", "import", "default"] } } }

export default defineConfig({
  test: {
    projects: [
      {
        ...sources,
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: ["test/examples/**", "test/integration/**"],
          // Generous, for a machine that is busy: no test waits for real time in earnest.
          testTimeout: 30_000,
          // The modules of effect are loaded once instead of once for each file.
          isolate: false
        }
      },
      {
        ...sources,
        test: {
          name: "examples",
          include: ["test/examples/**/*.test.ts"],
          isolate: false
        }
      },
      {
        ...sources,
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          // After the others, so that npm and the compiler do not take the processor from tests that measure time.
          sequence: { groupOrder: 1 },
          testTimeout: 180_000,
          hookTimeout: 180_000
        }
      }
    ]
  }
})
