/**
 * A complete answer, the parts of a streamed one, and the record of how it was served.
 *
 * Content is made of the encoded parts of `effect/ai` `Response`: plain data that survives a cache, a queue or a network, and
 * that a toolkit decodes at the very end.
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import type * as Duration from "effect/Duration"
import type { Attempt } from "./Attempt.ts"
import type { Notice } from "./Notice.ts"

/**
 * How an answer was served: by whom, from where, and what went wrong before.
 *
 * **Details**
 *
 * `attempts` are the steps that failed or were skipped before `provider` answered; it is empty on a good day. `contributors` are
 * all who wrote a part of a stream that broke and was recovered, in order; `provider` is the last of them. `degraded` says
 * in which way the answer is less than the user may expect (`smaller` model, `shorter` answer). `match`, `similarity`, `age` and `stale`
 * (older than answers should be) belong to an answer from the emergency cache. `notice` is what the end user should be told, when there is something to tell.
 * `question` is the one that a similar answer was written for, where the cache was told to say so.
 *
 * @category models
 * @since 0.1.0
 */
export interface Served {
  readonly provider: string
  readonly model: string
  readonly from: "provider" | "cache"
  readonly attempts: ReadonlyArray<Attempt>
  readonly contributors?: ReadonlyArray<{ readonly provider: string; readonly model: string }> | undefined
  readonly degraded?: "smaller" | "shorter" | undefined
  readonly match?: "exact" | "canonical" | "similar" | undefined
  readonly similarity?: number | undefined
  readonly question?: string | undefined
  readonly age?: Duration.Duration | undefined
  readonly stale?: boolean | undefined
  readonly notice?: Notice | undefined
}

/**
 * One of the limits that a provider reports with an answer (`x-ratelimit-*`, `anthropic-ratelimit-*`).
 *
 * @category models
 * @since 0.1.0
 */
export interface Limit {
  readonly limit?: number | undefined
  readonly remaining?: number | undefined
  readonly reset?: Duration.Duration | undefined
}

/**
 * What a provider reports about its limits.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limits {
  readonly requests?: Limit | undefined
  readonly tokens?: Limit | undefined
  readonly inputTokens?: Limit | undefined
  readonly outputTokens?: Limit | undefined
}

/**
 * A complete answer. Build it with {@link make}.
 *
 * @category models
 * @since 0.1.0
 */
export class LlmResponse {
  readonly content: ReadonlyArray<Response.PartEncoded>
  readonly served: Served
  readonly limits: Limits | undefined

  constructor(content: ReadonlyArray<Response.PartEncoded>, served: Served, limits?: Limits) {
    this.content = content
    this.served = served
    this.limits = limits
  }

  /** The text of the answer, without reasoning. */
  get text(): string {
    return this.content.reduce((text, part) => (part.type === "text" ? text + part.text : text), "")
  }

  /** The tools that the model wants to be called. */
  get toolCalls(): ReadonlyArray<Response.ToolCallPartEncoded> {
    return this.content.filter((part) => part.type === "tool-call")
  }

  /** Why the model stopped. */
  get finishReason(): Response.FinishReason {
    return this.content.find((part) => part.type === "finish")?.reason ?? "unknown"
  }

  /** The tokens that were used, as far as the provider told. */
  get usage(): Usage {
    return this.content.find((part) => part.type === "finish")?.usage ?? unknownUsage
  }
}

/**
 * The tokens that an answer used.
 *
 * @category models
 * @since 0.1.0
 */
export type Usage = Response.FinishPartEncoded["usage"]

/**
 * The usage of an answer whose provider did not tell.
 *
 * @category constants
 * @since 0.1.0
 */
export const unknownUsage: Usage = { inputTokens: {}, outputTokens: {} }

/**
 * Creates an answer.
 *
 * **Details**
 *
 * `content` ends with a `finish` part. An answer straight from a provider was served by it without attempts before.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: {
  readonly content: ReadonlyArray<Response.PartEncoded>
  readonly served: Served
  readonly limits?: Limits | undefined
}): LlmResponse => new LlmResponse(options.content, options.served, options.limits)

/**
 * Returns the record of an answer that comes straight from a provider, without attempts before.
 *
 * @category constructors
 * @since 0.1.0
 */
export const servedBy = (provider: { readonly id: string; readonly model: string }): Served => ({
  provider: provider.id,
  model: provider.model,
  from: "provider",
  attempts: []
})

/**
 * Creates the parts of a plain text answer: the text and a `finish` part.
 *
 * @category constructors
 * @since 0.1.0
 */
export const textContent = (
  text: string,
  options?: { readonly usage?: Usage | undefined; readonly reason?: Response.FinishReason | undefined }
): ReadonlyArray<Response.TextPartEncoded | Response.FinishPartEncoded> => [
  { type: "text", text },
  { type: "finish", reason: options?.reason ?? "stop", usage: options?.usage ?? unknownUsage }
]

/**
 * Returns the same answer with another record of how it was served.
 *
 * @category combinators
 * @since 0.1.0
 */
export const withServed = (self: LlmResponse, served: Served): LlmResponse =>
  new LlmResponse(self.content, served, self.limits)

/**
 * The part of a stream that says how the content after it is served. The chain puts one before the first content; should the
 * rest of an answer come from somebody else, another follows and replaces it.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServedPart {
  readonly type: "served"
  readonly served: Served
}

/**
 * One part of a streamed answer.
 *
 * **Details**
 *
 * The encoded stream parts of `effect/ai` without its `error` part (an error of ours is in the error channel, typed) and with
 * {@link ServedPart}. The last part is `finish`.
 *
 * @category models
 * @since 0.1.0
 */
export type LlmStreamPart = Exclude<Response.StreamPartEncoded, Response.ErrorPartEncoded> | ServedPart

/**
 * Checks whether a part is content that the user may see or act on, in contrast to preamble (`response-metadata`, `served`, the
 * start of a block, an empty delta) and to the end (`finish`).
 *
 * **Details**
 *
 * The first content is the commit point: before it a call may fail over, after it nothing is silently repeated.
 *
 * @category guards
 * @since 0.1.0
 */
export const isContent = (part: LlmStreamPart): boolean => {
  switch (part.type) {
    case "served":
    case "response-metadata":
    case "text-start":
    case "text-end":
    case "reasoning-start":
    case "reasoning-end":
    case "finish":
      return false
    case "text-delta":
    case "reasoning-delta":
      return part.delta.length > 0
    default:
      return true
  }
}

/**
 * Puts the parts of a stream together to the content of a whole answer.
 *
 * **Details**
 *
 * Deltas of one block become one `text` or `reasoning` part in the order in which the blocks started; the parameters of a tool
 * call are dropped in favour of the `tool-call` part that follows them.
 *
 * @category combinators
 * @since 0.1.0
 */
export const collect = (parts: Iterable<LlmStreamPart>): ReadonlyArray<Response.PartEncoded> => {
  const content: Array<Response.PartEncoded> = []
  const blocks = new Map<string, number>()
  const open = (id: string, part: Response.TextPartEncoded | Response.ReasoningPartEncoded): void => {
    blocks.set(`${part.type}:${id}`, content.push(part) - 1)
  }
  const append = (
    type: "text" | "reasoning",
    part: Response.TextDeltaPartEncoded | Response.ReasoningDeltaPartEncoded
  ) => {
    const key = `${type}:${part.id}`
    if (!blocks.has(key)) open(part.id, { type, text: "" })
    const index = blocks.get(key) ?? 0
    const block = content[index]
    if (block === undefined || !("text" in block)) return
    content[index] = {
      ...block,
      text: block.text + part.delta,
      ...mergeMetadata(block.metadata, part.metadata)
    }
  }
  const close = (type: "text" | "reasoning", part: Response.TextEndPartEncoded | Response.ReasoningEndPartEncoded) => {
    const index = blocks.get(`${type}:${part.id}`)
    const block = index === undefined ? undefined : content[index]
    if (index === undefined || block === undefined) return
    content[index] = { ...block, ...mergeMetadata(block.metadata, part.metadata) }
    blocks.delete(`${type}:${part.id}`)
  }
  for (const part of parts) {
    switch (part.type) {
      case "text-start":
        open(part.id, { type: "text", text: "", ...mergeMetadata(part.metadata, undefined) })
        break
      case "reasoning-start":
        open(part.id, { type: "reasoning", text: "", ...mergeMetadata(part.metadata, undefined) })
        break
      case "text-delta":
        append("text", part)
        break
      case "reasoning-delta":
        append("reasoning", part)
        break
      case "text-end":
        close("text", part)
        break
      case "reasoning-end":
        close("reasoning", part)
        break
      case "tool-params-start":
      case "tool-params-delta":
      case "tool-params-end":
      case "served":
        break
      default:
        content.push(part)
    }
  }
  return content.filter((part) => !(part.type === "text" && part.text === ""))
}

const mergeMetadata = <M extends object>(left: M | undefined, right: M | undefined): { readonly metadata?: M } =>
  left === undefined && right === undefined ? {} : { metadata: { ...left, ...right } as M }
