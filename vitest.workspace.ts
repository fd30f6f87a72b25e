import { defineConfig } from "vitest/config"

const source = { ssr: { resolve: { conditions: ["@llm-resilience/source", "node", "import", "default"] } } }

export default defineConfig({
  test: {
    projects: [
      {
        ...source,
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: ["test/integration/**"],
          isolate: false
        }
      },
      {
        ...source,
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 180_000
        }
      }
    ]
  }
})
