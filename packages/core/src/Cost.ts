/**
 * What an answer costs: tokens times the price of the model, when both are known.
 *
 * Prices change and contracts differ, so a cost is an estimate for routing and budgets, not an invoice. What is not known is not
 * guessed: without a price or without usage there is no cost.
 *
 * @since 0.1.0
 */
import type * as LlmResponse from "./LlmResponse.ts"
import type { Price } from "./Provider.ts"

/**
 * Returns what an answer costs in US dollars, or `undefined` when its provider did not count its tokens.
 *
 * **Example** (Charging for an answer)
 *
 * ```ts import.meta.vitest
 * import { Cost } from "@llm-resilience/core"
 *
 * const price = { inputPerMillion: 3, outputPerMillion: 15, cachedInputPerMillion: 0.3 }
 * const usage = { inputTokens: { total: 12_000, cacheRead: 10_000 }, outputTokens: { total: 400 } }
 *
 * Cost.ofUsage(usage, price)?.toFixed(4) // => "0.0150"
 * Cost.ofUsage({ inputTokens: {}, outputTokens: {} }, price) // => undefined
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const ofUsage = (usage: LlmResponse.Usage, price: Price): number | undefined => {
  const { cacheRead = 0, cacheWrite = 0, total, uncached } = usage.inputTokens
  const output = usage.outputTokens.total ?? sum(usage.outputTokens.text, usage.outputTokens.reasoning)
  const input = total ?? (uncached === undefined ? undefined : uncached + cacheRead + cacheWrite)
  if (input === undefined || output === undefined) return undefined
  const plain = Math.max(0, input - cacheRead - cacheWrite)
  return (
    (plain * price.inputPerMillion +
      cacheRead * (price.cachedInputPerMillion ?? price.inputPerMillion) +
      cacheWrite * (price.cacheWritePerMillion ?? price.inputPerMillion) +
      output * price.outputPerMillion) /
    1_000_000
  )
}

const sum = (left: number | undefined, right: number | undefined): number | undefined =>
  left === undefined ? right : left + (right ?? 0)
