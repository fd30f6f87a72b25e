import type * as LlmResponse from "@llm-resilience/core/LlmResponse"

type Input = LlmResponse.Usage["inputTokens"]

/** Input of a provider that counts tokens from and to its cache beside the others. */
export const besideCache = (
  uncached: number | undefined,
  cacheRead: number | undefined,
  cacheWrite: number | undefined
): Input => ({
  ...(uncached === undefined ? undefined : { uncached, total: uncached + (cacheRead ?? 0) + (cacheWrite ?? 0) }),
  ...(cacheRead === undefined ? undefined : { cacheRead }),
  ...(cacheWrite === undefined ? undefined : { cacheWrite })
})

/** Input of a provider that counts tokens from its cache among all. */
export const withCache = (total: number | undefined, cacheRead: number | undefined): Input => ({
  ...(total === undefined ? undefined : { total, uncached: Math.max(0, total - (cacheRead ?? 0)) }),
  ...(cacheRead === undefined ? undefined : { cacheRead })
})
