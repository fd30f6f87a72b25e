/**
 * What is known about models: how long a prompt they read, how much they write, what they can do and what their tokens cost.
 *
 * The adapters look their model up here, so that a chain can skip a step whose window is too small and compare costs, without anybody
 * writing it down. `capabilities` of an adapter replace what the catalogue says, field by field; `{ price: undefined }` takes a price away.
 *
 * **Details**
 *
 * The numbers are those of the providers' own public pages, as of {@link asOf}, in US dollars for a million tokens, for ordinary requests: no
 * batch, no priority, no regional surcharge. Where long prompts cost more, it is the price of short ones. A window is the largest that the
 * model has with any option, because a step is skipped only for what certainly does not fit.
 *
 * A model is found under its own name and under those that platforms give it: `us.anthropic.claude-haiku-4-5-20251001-v1:0`,
 * `anthropic/claude-haiku-4-5`, `claude-haiku-4-5@20251001` and `models/gemini-2.5-pro` are all known. A model with a name of your own (a
 * deployment at Azure, a fine-tuned model) is not.
 *
 * **Example** (Telling what an answer cost)
 *
 * ```ts import.meta.vitest
 * import { Cost } from "@llm-resilience/core"
 * import { Catalogue } from "@llm-resilience/providers"
 *
 * const price = Catalogue.find("gpt-5-mini-2025-08-07")?.price
 * const usage = { inputTokens: { total: 2000 }, outputTokens: { total: 500 } }
 *
 * price && Cost.ofUsage(usage, price) // => 0.0015
 * Catalogue.find("my-deployment") // => undefined
 * ```
 *
 * @since 0.1.0
 */
import type * as Provider from "@llm-resilience/core/Provider"

/**
 * The day of which the numbers are.
 *
 * @category constants
 * @since 0.1.0
 */
export const asOf = "2026-08-21"

interface Row {
  readonly contextWindow?: number
  readonly maxOutputTokens?: number
  /** Per million tokens: input, output, input from the cache, input into the cache. */
  readonly price: readonly [input: number, output: number, cached?: number, written?: number]
  readonly lacks?: ReadonlyArray<"tools" | "images" | "files" | "jsonSchema" | "streaming">
}

const capabilitiesOf = ({ contextWindow, lacks, maxOutputTokens, price }: Row): Provider.Capabilities => {
  const [inputPerMillion, outputPerMillion, cachedInputPerMillion, cacheWritePerMillion] = price
  return {
    ...(contextWindow === undefined ? undefined : { contextWindow }),
    ...(maxOutputTokens === undefined ? undefined : { maxOutputTokens }),
    ...Object.fromEntries((lacks ?? []).map((ability) => [ability, false])),
    price: {
      inputPerMillion,
      outputPerMillion,
      ...(cachedInputPerMillion === undefined ? undefined : { cachedInputPerMillion }),
      ...(cacheWritePerMillion === undefined ? undefined : { cacheWritePerMillion })
    }
  }
}

const claude = (contextWindow: number, maxOutputTokens: number | undefined, price: Row["price"]): Row => ({
  contextWindow,
  ...(maxOutputTokens === undefined ? undefined : { maxOutputTokens }),
  price
})

const gpt = claude
const gemini = claude

const rows: { readonly [model: string]: Row } = {
  // https://www.anthropic.com/pricing and https://platform.claude.com/docs/en/about-claude/models
  "claude-3-haiku": claude(200_000, 4096, [0.25, 1.25, 0.03, 0.3]),
  "claude-3-opus": claude(200_000, 4096, [15, 75, 1.5, 18.75]),
  "claude-3-5-haiku": claude(200_000, 8192, [0.8, 4, 0.08, 1]),
  "claude-3-5-sonnet": claude(200_000, 8192, [3, 15, 0.3, 3.75]),
  "claude-3-7-sonnet": claude(200_000, 128_000, [3, 15, 0.3, 3.75]),
  "claude-haiku-4-5": claude(200_000, 64_000, [1, 5, 0.1, 1.25]),
  "claude-sonnet-4": claude(1_000_000, 64_000, [3, 15, 0.3, 3.75]),
  "claude-sonnet-4-5": claude(1_000_000, 64_000, [3, 15, 0.3, 3.75]),
  "claude-sonnet-4-6": claude(1_000_000, undefined, [3, 15, 0.3, 3.75]),
  "claude-sonnet-5": claude(1_000_000, undefined, [3, 15, 0.3, 3.75]),
  "claude-opus-4": claude(200_000, 32_000, [15, 75, 1.5, 18.75]),
  "claude-opus-4-1": claude(200_000, 32_000, [15, 75, 1.5, 18.75]),
  "claude-opus-4-5": claude(200_000, 64_000, [5, 25, 0.5, 6.25]),
  "claude-opus-4-6": claude(1_000_000, undefined, [5, 25, 0.5, 6.25]),
  "claude-opus-4-7": claude(1_000_000, undefined, [5, 25, 0.5, 6.25]),
  "claude-opus-4-8": claude(1_000_000, undefined, [5, 25, 0.5, 6.25]),
  "claude-opus-5": claude(1_000_000, undefined, [5, 25, 0.5, 6.25]),

  // https://openai.com/api/pricing and https://platform.openai.com/docs/models
  "gpt-3.5-turbo": { contextWindow: 16_385, maxOutputTokens: 4096, price: [0.5, 1.5], lacks: ["images", "files"] },
  "gpt-4": { contextWindow: 8192, maxOutputTokens: 8192, price: [30, 60], lacks: ["images", "files"] },
  "gpt-4-turbo": gpt(128_000, 4096, [10, 30]),
  "gpt-4o": gpt(128_000, 16_384, [2.5, 10, 1.25]),
  "gpt-4o-mini": gpt(128_000, 16_384, [0.15, 0.6, 0.075]),
  "gpt-4.1": gpt(1_047_576, 32_768, [2, 8, 0.5]),
  "gpt-4.1-mini": gpt(1_047_576, 32_768, [0.4, 1.6, 0.1]),
  "gpt-4.1-nano": gpt(1_047_576, 32_768, [0.1, 0.4, 0.025]),
  "gpt-5": gpt(400_000, 128_000, [1.25, 10, 0.125]),
  "gpt-5-mini": gpt(400_000, 128_000, [0.25, 2, 0.025]),
  "gpt-5-nano": gpt(400_000, 128_000, [0.05, 0.4, 0.005]),
  "gpt-5-pro": gpt(400_000, undefined, [15, 120]),
  "gpt-5.1": gpt(400_000, 128_000, [1.25, 10, 0.125]),
  "gpt-5.2": gpt(400_000, 128_000, [1.75, 14, 0.175]),
  "gpt-5.4": gpt(1_050_000, undefined, [2.5, 15, 0.25]),
  "gpt-5.4-mini": gpt(400_000, undefined, [0.75, 4.5, 0.075]),
  "gpt-5.4-nano": gpt(400_000, undefined, [0.2, 1.25, 0.02]),
  "gpt-5.5": gpt(1_000_000, undefined, [5, 30, 0.5]),
  "gpt-5.6-sol": gpt(1_050_000, undefined, [5, 30, 0.5, 6.25]),
  o1: gpt(200_000, 100_000, [15, 60, 7.5]),
  o3: gpt(200_000, 100_000, [2, 8, 0.5]),
  "o3-mini": { contextWindow: 200_000, maxOutputTokens: 100_000, price: [1.1, 4.4, 0.55], lacks: ["images"] },
  "o4-mini": gpt(200_000, 100_000, [1.1, 4.4, 0.275]),

  // https://ai.google.dev/gemini-api/docs/pricing and https://ai.google.dev/gemini-api/docs/models
  "gemini-2.0-flash": gemini(1_048_576, 8192, [0.1, 0.4, 0.025]),
  "gemini-2.5-pro": gemini(1_048_576, 65_536, [1.25, 10, 0.125]),
  "gemini-2.5-flash": gemini(1_048_576, 65_536, [0.3, 2.5, 0.03]),
  "gemini-2.5-flash-lite": gemini(1_048_576, 65_536, [0.1, 0.4, 0.01]),
  "gemini-3-pro-preview": gemini(1_048_576, 65_536, [2, 12, 0.2]),
  "gemini-3-flash-preview": gemini(1_048_576, 65_536, [0.5, 3, 0.05]),
  "gemini-3.1-pro-preview": gemini(1_048_576, 65_536, [2, 12, 0.2]),
  "gemini-3.1-flash-lite": gemini(1_048_576, undefined, [0.25, 1.5, 0.025]),
  "gemini-3.5-flash": gemini(1_048_576, undefined, [1.5, 9, 0.15]),
  "gemini-3.5-flash-lite": gemini(1_048_576, undefined, [0.3, 2.5, 0.03]),

  // https://aws.amazon.com/bedrock/pricing and the pages of Nova
  "nova-micro": { contextWindow: 128_000, price: [0.035, 0.14, 0.00875], lacks: ["images", "files"] },
  "nova-lite": { contextWindow: 300_000, price: [0.06, 0.24, 0.015] },
  "nova-pro": { contextWindow: 300_000, price: [0.8, 3.2, 0.2] },
  "nova-premier": { contextWindow: 1_000_000, price: [2.5, 12.5, 0.625] },
  "titan-text-lite": { contextWindow: 4096, price: [0.15, 0.2], lacks: ["tools", "images", "files", "jsonSchema"] },
  "titan-text-express": { contextWindow: 8192, price: [0.2, 0.6], lacks: ["tools", "images", "files", "jsonSchema"] }
}

/**
 * What is known, by the shortest name of each model.
 *
 * @category constants
 * @since 0.1.0
 */
export const models: ReadonlyMap<string, Provider.Capabilities> = new Map(
  Object.entries(rows).map(([model, row]) => [model, capabilitiesOf(row)])
)

/**
 * Finds what is known about a model, under whichever name a platform gives it.
 *
 * @category accessors
 * @since 0.1.0
 */
export const find = (model: string): Provider.Capabilities | undefined => models.get(shortest(model))

// Regions and makers come first, dates, versions and `latest` last.
const shortest = (model: string): string =>
  model
    .toLowerCase()
    .replace(/^.*\//, "")
    .replace(/^(?:us-gov|us|eu|apac|jp|au|global)\./, "")
    .replace(/^(?:anthropic|amazon)\./, "")
    .replace(/(?:-v\d+)?(?::\d+(?::\w+)?)?$/, "")
    .replace(/@.*$/, "")
    .replace(/-(?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$/, "")
    .replace(/^(claude-(?:opus|sonnet)-4)-0$/, "$1")
