/**
 * One question to a language model, in the vocabulary of `effect/ai`, together with what resilience needs to know about it:
 * how long it may take, for whom it is, whether it may wait and whether its answer may be cached.
 *
 * @since 0.1.0
 */
import type * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import type * as Tool from "effect/ai/Tool"
import * as Duration from "effect/Duration"
import type * as Schema from "effect/Schema"
import type { Grant } from "./Budget.ts"
import { allowanceOf, unlimited } from "./internal/allowance.ts"

/**
 * How the model should generate. Every field is optional: what is absent is left to the provider.
 *
 * **Details**
 *
 * `maxOutputTokens` bounds the answer. `stop` ends it at any of the given texts. `providerOptions` are merged into the body
 * sent to the provider whose id (or protocol, for example `openai` or `anthropic`) is the key, so that a request can use what
 * only one provider has without breaking the others.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly maxOutputTokens?: number | undefined
  readonly temperature?: number | undefined
  readonly topP?: number | undefined
  readonly stop?: ReadonlyArray<string> | undefined
  readonly seed?: number | undefined
  readonly providerOptions?: { readonly [provider: string]: { readonly [key: string]: Schema.Json } } | undefined
}

/**
 * What the answer should look like: free text, or JSON that satisfies a schema.
 *
 * @category models
 * @since 0.1.0
 */
export type ResponseFormat = LanguageModel.ProviderOptions["responseFormat"]

/**
 * How close the question of a stored answer must be to serve another one: the same, the same but for spelling, politeness and opening, or
 * of the same meaning. Each includes those before it. Left out, it is `exact` for requests with tools or a JSON schema, and else what the
 * cache allows.
 *
 * @category models
 * @since 0.1.0
 */
export type CacheMatch = "exact" | "canonical" | "similar"

/**
 * How much a request matters when there is not room for all of them: `batch` waits or is turned away first, `critical` keeps a reserved
 * share.
 *
 * @category models
 * @since 0.1.0
 */
export type Priority = "critical" | "normal" | "batch"

/**
 * One question to a language model. Build it with {@link make}.
 *
 * **Details**
 *
 * `deadline` is the time for the whole chain, everything included. `scope` is the tenant or user the request belongs to: it
 * partitions caches, queues and stickiness. `mayWait` permits an answer later (the deferred queue), `mayCache` permits storing
 * the answer and serving a stored one. `subject` is the person within the scope whom the answer is for and nobody else; without one,
 * stored answers are shared within the scope. `cacheMatch` says how close the question of a stored answer must be. `priority` says who gives
 * way under load. `attempts` is the most calls to providers that the request may cause, retries, hedges and recoveries included.
 *
 * `id`, `allowance`, `grant`, `expiresAt`, `commitBy`, `stepsLeft`, `insists` and `lastResort` are written by the chain while the request travels down.
 * Policies read them and pass them on; callers leave them alone. `id` ties events together. `expiresAt` is the monotonic millisecond at which the
 * deadline ends, `commitBy` the one at which a stream must have shown its first content, so that others get their share of the time.
 * `stepsLeft` is above zero while somebody else could still take over. `allowance` is what is left of `attempts`, `grant` what a retry or a hedge was
 * granted from the budget of the provider. `insists` says that nobody who
 * is well could answer, so a step that is merely spared (held for unhealthy by a check, or in slow start) lets it pass. `lastResort` says that every step would refuse and this one may find out:
 * breakers and cooldowns let it pass.
 *
 * @category models
 * @since 0.1.0
 */
export interface LlmRequest {
  readonly prompt: Prompt.Prompt
  readonly tools: ReadonlyArray<Tool.Any>
  readonly toolChoice: LanguageModel.ToolChoice<string>
  readonly responseFormat: ResponseFormat
  readonly settings: Settings
  readonly deadline: Duration.Duration | undefined
  readonly scope: string | undefined
  readonly subject: string | undefined
  readonly mayWait: boolean
  readonly mayCache: boolean
  readonly cacheMatch: CacheMatch | undefined
  readonly priority: Priority
  readonly attempts: number | undefined
  readonly id: number
  readonly allowance: Allowance
  readonly grant: Grant | undefined
  readonly expiresAt: number
  readonly commitBy: number
  readonly stepsLeft: number
  readonly insists: boolean
  readonly lastResort: boolean
}

/**
 * How many calls to providers a request may still cause. Whoever calls a provider once has paid for that call; whoever calls one more (the next
 * step, a retry, a hedge, a recovery) takes it from here first. All branches of a request share one allowance, so it is changed in place.
 *
 * @category models
 * @since 0.1.0
 */
export interface Allowance {
  left: number
}

/**
 * What {@link make} accepts: a prompt, and whatever differs from the defaults.
 *
 * @category models
 * @since 0.1.0
 */
export interface Input {
  readonly prompt: Prompt.RawInput
  readonly tools?: ReadonlyArray<Tool.Any> | undefined
  readonly toolChoice?: LanguageModel.ToolChoice<string> | undefined
  readonly responseFormat?: ResponseFormat | undefined
  readonly settings?: Settings | undefined
  readonly deadline?: Duration.Input | undefined
  readonly scope?: string | undefined
  readonly subject?: string | undefined
  readonly mayWait?: boolean | undefined
  readonly mayCache?: boolean | undefined
  readonly cacheMatch?: CacheMatch | undefined
  readonly priority?: Priority | undefined
  readonly attempts?: number | undefined
}

/**
 * Creates a request.
 *
 * **Details**
 *
 * Defaults: no tools, free text, the provider's own settings, no deadline, no scope, may not wait, may be cached, normal priority. A deadline
 * of zero or less has passed already: nobody is asked. An infinite one means none.
 *
 * **Example** (Asking with a deadline)
 *
 * ```ts import.meta.vitest
 * import { LlmRequest } from "@llm-resilience/core"
 *
 * const request = LlmRequest.make({ prompt: "What is a circuit breaker?", deadline: "20 seconds" })
 *
 * request.prompt.content.length // => 1
 * request.mayWait // => false
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (input: Input): LlmRequest => {
  const deadline = input.deadline === undefined ? undefined : Duration.fromInputUnsafe(input.deadline)
  const maxOutputTokens = input.settings?.maxOutputTokens
  if (maxOutputTokens !== undefined && (!Number.isInteger(maxOutputTokens) || maxOutputTokens < 1)) {
    throw new RangeError(`LlmRequest.make: settings.maxOutputTokens must be an integer >= 1, got ${maxOutputTokens}`)
  }
  const { attempts, cacheMatch, priority = "normal" } = input
  known("priority", priority, priorities)
  if (cacheMatch !== undefined) known("cacheMatch", cacheMatch, cacheMatches)
  if (attempts !== undefined && (!Number.isInteger(attempts) || attempts < 1)) {
    throw new RangeError(`LlmRequest.make: attempts must be an integer >= 1, got ${attempts}`)
  }
  return {
    prompt: Prompt.make(input.prompt),
    tools: input.tools ?? [],
    toolChoice: input.toolChoice ?? "auto",
    responseFormat: input.responseFormat ?? { type: "text" },
    settings: input.settings ?? {},
    deadline: deadline !== undefined && Duration.toMillis(deadline) < Infinity ? deadline : undefined,
    scope: input.scope,
    subject: input.subject,
    mayWait: input.mayWait ?? false,
    mayCache: input.mayCache ?? true,
    cacheMatch,
    priority,
    attempts,
    id: 0,
    allowance: unlimited,
    grant: undefined,
    expiresAt: Infinity,
    commitBy: Infinity,
    stepsLeft: 0,
    insists: false,
    lastResort: false
  }
}

const priorities: ReadonlyArray<string> = ["critical", "normal", "batch"] satisfies ReadonlyArray<Priority>
const cacheMatches: ReadonlyArray<string> = ["exact", "canonical", "similar"] satisfies ReadonlyArray<CacheMatch>

// Such a word may have come over the network, where no compiler has looked at it.
const known = (name: string, word: string, words: ReadonlyArray<string>): void => {
  if (!words.includes(word)) {
    throw new RangeError(`LlmRequest.make: ${name} must be one of ${words.join(", ")}, got "${word}"`)
  }
}

/**
 * Bounds the calls of a request: returns it with an allowance of its own `attempts`, or of `attempts` where it has none. A request whose allowance
 * is bounded already, in a chain within a chain, keeps it.
 *
 * @category combinators
 * @since 0.1.0
 */
export const allow = (self: LlmRequest, attempts?: number): LlmRequest => {
  const allowance = allowanceOf(self, attempts)
  return allowance === self.allowance ? self : { ...self, allowance }
}

/**
 * Starts the clock of a request: returns it with `expiresAt` set from its deadline. `now` is in monotonic milliseconds. A request
 * whose clock already runs, in a chain within a chain, keeps the earlier end.
 *
 * @category combinators
 * @since 0.1.0
 */
export const start = (self: LlmRequest, now: number): LlmRequest => {
  if (self.deadline === undefined) return self
  const expiresAt = now + Duration.toMillis(self.deadline)
  return expiresAt < self.expiresAt ? { ...self, expiresAt, deadline: undefined } : { ...self, deadline: undefined }
}
