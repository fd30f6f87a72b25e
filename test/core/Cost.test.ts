import { assert, describe, it } from "@effect/vitest"
import { Cost, LlmResponse } from "@llm-resilience/core"

const price = { inputPerMillion: 3, outputPerMillion: 15, cachedInputPerMillion: 0.3, cacheWritePerMillion: 3.75 }

describe("Cost", () => {
  it("charges what was read from and written to a cache at its own price", () => {
    const usage = {
      inputTokens: { total: 1_000_000, cacheRead: 500_000, cacheWrite: 100_000 },
      outputTokens: { total: 100_000 }
    }

    assert.closeTo(Cost.ofUsage(usage, price) ?? NaN, 0.4 * 3 + 0.5 * 0.3 + 0.1 * 3.75 + 1.5, 1e-9)
    const { inputPerMillion, outputPerMillion } = price
    assert.closeTo(Cost.ofUsage(usage, { inputPerMillion, outputPerMillion }) ?? NaN, 3 + 1.5, 1e-9)
  })

  it("adds up what was counted in parts", () => {
    const usage = { inputTokens: { uncached: 1000, cacheRead: 1000 }, outputTokens: { text: 100, reasoning: 900 } }

    assert.closeTo(Cost.ofUsage(usage, price) ?? NaN, 0.003 + 0.0003 + 0.015, 1e-9)
  })

  it("guesses nothing", () => {
    assert.isUndefined(Cost.ofUsage(LlmResponse.unknownUsage, price))
    assert.isUndefined(Cost.ofUsage({ inputTokens: { total: 1 }, outputTokens: {} }, price))
    assert.strictEqual(Cost.ofUsage({ inputTokens: { total: 0 }, outputTokens: { total: 0 } }, price), 0)
    // More from the cache than there was: the rest costs nothing, and never less.
    const usage = { inputTokens: { total: 1, cacheRead: 1_000_000 }, outputTokens: { total: 0 } }
    assert.closeTo(Cost.ofUsage(usage, price) ?? NaN, 0.3, 1e-9)
  })
})
