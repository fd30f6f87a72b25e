/**
 * A provider that does what a script says, call by call, and remembers what it was asked.
 *
 * It never touches a network and takes its time from the fiber's `Clock`, so it is deterministic under `TestClock`: a delay of a
 * minute passes when the test says so. Whole and streamed calls take the same next step of the script; a whole call collects what
 * the stream would have sent, and takes as long.
 *
 * A call beyond the end of the script repeats its last step. It does not speak a wire protocol: for adapters and sockets use
 * {@link Upstream}.
 *
 * **Example** (A provider that fails once)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest } from "@llm-resilience/core"
 * import { ScriptedProvider } from "@llm-resilience/testing"
 *
 * const program = Effect.gen(function*() {
 *   const primary = yield* ScriptedProvider.make({
 *     id: "primary",
 *     script: [ScriptedProvider.fail("Overloaded"), ScriptedProvider.answer("Hello!")]
 *   })
 *   const ask = primary.generate(LlmRequest.make({ prompt: "Hi" }))
 *   const first = yield* Effect.flip(ask)
 *   const second = yield* ask
 *   return [first._tag, second.text, yield* primary.count]
 * })
 *
 * await Effect.runPromise(program) // => ["APIError", "Hello!", 2]
 * ```
 *
 * @since 0.1.0
 */
import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as Provider from "@llm-resilience/core/Provider"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { errorOf } from "./internal/errors.ts"
import { tokens as tokensOf } from "./internal/tokens.ts"
import { makeWaiting } from "./internal/waiting.ts"

/**
 * A provider with a script, and what it saw.
 *
 * **Details**
 *
 * `calls` are the calls so far, oldest first. `count` is how many there were since the provider was made, `running` how many have
 * not ended: 0 when everybody who left has cleaned up. `awaitCalls` waits until that many calls were made. `setScript` starts a new
 * script at its first step.
 *
 * @category models
 * @since 0.1.0
 */
export interface ScriptedProvider extends Provider.Provider {
  readonly calls: Effect.Effect<ReadonlyArray<Call>>
  readonly count: Effect.Effect<number>
  readonly running: Effect.Effect<number>
  readonly awaitCalls: (count: number) => Effect.Effect<void>
  readonly setScript: (script: Script) => Effect.Effect<void>
}

/**
 * A call as the provider saw it.
 *
 * **Details**
 *
 * Times are milliseconds of the clock of the caller. A stream is `answered` once its `finish` part was taken; it is `interrupted` when
 * its reader left before that. A defect counts as `failed`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Call {
  readonly index: number
  readonly request: LlmRequest
  readonly method: "generate" | "stream"
  readonly at: number
  readonly endedAt?: number | undefined
  readonly outcome: "answered" | "failed" | "interrupted" | "running"
}

/**
 * What to do at each call: a list of steps whose last one repeats, or a function of the index of the call (from 0) and the request.
 *
 * @category models
 * @since 0.1.0
 */
export type Script = ReadonlyArray<Step> | ((index: number, request: LlmRequest) => Step)

/**
 * What to do at one call. Build it with {@link answer}, {@link stream}, {@link tokens}, {@link fail}, {@link delay}, {@link hang} and
 * {@link die}.
 *
 * @category models
 * @since 0.1.0
 */
export type Step =
  | {
      readonly _tag: "Answer"
      readonly content: ReadonlyArray<Response.PartEncoded>
      readonly limits: LlmResponse.Limits | undefined
    }
  | { readonly _tag: "Stream"; readonly items: ReadonlyArray<Item> }
  | { readonly _tag: "Delay"; readonly duration: Duration.Duration; readonly step: Step }
  | Break

/**
 * How a call ends badly, as a step or in the middle of a stream. Build it with {@link fail}, {@link cut}, {@link hang} or {@link die}.
 *
 * @category models
 * @since 0.1.0
 */
export type Break =
  | { readonly _tag: "Fail"; readonly error: (provider: string) => ProviderError.ProviderError }
  | { readonly _tag: "Hang" }
  | { readonly _tag: "Die"; readonly defect: unknown }

/**
 * What a scripted stream does next: send text, send any part, wait, or break.
 *
 * @category models
 * @since 0.1.0
 */
export type Item = string | LlmResponse.LlmStreamPart | Pause | Break

/**
 * A pause within a stream. Build it with {@link pause}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pause {
  readonly _tag: "Pause"
  readonly duration: Duration.Duration
}

/**
 * Service tag of {@link ScriptedProvider}: how a test gets at the provider that {@link layer} provides.
 *
 * @category services
 * @since 0.1.0
 */
export const ScriptedProvider: Context.Service<ScriptedProvider, ScriptedProvider> = Context.Service(
  "@llm-resilience/testing/ScriptedProvider"
)

/**
 * What a scripted provider is made with.
 *
 * **Details**
 *
 * `id` defaults to `scripted`, `model` to `scripted-1`, capabilities to unknown. `maxCalls` bounds what `calls` remembers (10 000; older
 * ones are dropped).
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id?: string | undefined
  readonly model?: string | undefined
  readonly capabilities?: Provider.Capabilities | undefined
  readonly script: Script
  readonly maxCalls?: number | undefined
}

/**
 * Creates a provider that follows a script.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<ScriptedProvider> => {
  const id = options.id ?? "scripted"
  const model = options.model ?? "scripted-1"
  const maxCalls = options.maxCalls ?? 10_000
  if (!Number.isInteger(maxCalls) || maxCalls < 1) {
    throw new RangeError(`ScriptedProvider.make: maxCalls must be an integer >= 1, got ${maxCalls}`)
  }
  const first = stepsOf("make", options.script)
  return Effect.sync(() => {
    let stepFor = first
    let scriptSince = 0
    let count = 0
    let running = 0
    const calls: Array<{ recorded: Call }> = []
    const { awaited, notify } = makeWaiting()

    const begin = (method: Call["method"], request: LlmRequest): Effect.Effect<Begun> =>
      Clock.clockWith((clock) =>
        Effect.sync(() => {
          const index = count++
          const findStep = stepFor
          const indexInScript = index - scriptSince
          const at = clock.currentTimeMillisUnsafe()
          const entry: { recorded: Call } = { recorded: { index, request, method, at, outcome: "running" } }
          calls.push(entry)
          if (calls.length > maxCalls) calls.shift()
          running += 1
          notify()
          return {
            step: () => findStep(indexInScript, request),
            settle: (outcome) =>
              Effect.sync(() => {
                if (entry.recorded.outcome !== "running") return
                entry.recorded = { ...entry.recorded, outcome, endedAt: clock.currentTimeMillisUnsafe() }
                running -= 1
              })
          }
        })
      )

    const provider = Provider.make({
      id,
      model,
      capabilities: options.capabilities,
      generate: (request) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(begin("generate", request), (call) =>
            Effect.onExit(
              restore(
                Effect.suspend(() => {
                  const step = call.step()
                  return Effect.map(Stream.runCollect(play(step, id, model)), (parts) => ({
                    content: LlmResponse.collect(parts),
                    limits: limitsOf(step)
                  }))
                })
              ),
              (exit) => call.settle(outcomeOf(exit))
            )
          )
        ),
      stream: (request) =>
        Stream.unwrap(
          // A reader that leaves before the first pull runs no other finalizer than that of its scope.
          Effect.map(
            Effect.acquireRelease(begin("stream", request), (call) => call.settle("interrupted")),
            (call) =>
              Stream.suspend(() => play(call.step(), id, model)).pipe(
                Stream.tap((part) => (part.type === "finish" ? call.settle("answered") : Effect.void)),
                // Every script ends with finish or a break, so an end without either is a reader that left.
                Stream.onExit((exit) => call.settle(Exit.isSuccess(exit) ? "interrupted" : outcomeOf(exit)))
              )
          )
        )
    })

    return {
      ...provider,
      calls: Effect.sync(() => calls.map((entry) => entry.recorded)),
      count: Effect.sync(() => count),
      running: Effect.sync(() => running),
      awaitCalls: (expected) => awaited(() => count >= expected),
      setScript: (script) => {
        const next = stepsOf("setScript", script)
        return Effect.sync(() => {
          stepFor = next
          scriptSince = count
        })
      }
    }
  })
}

interface Begun {
  readonly step: () => Step
  readonly settle: (outcome: Exclude<Call["outcome"], "running">) => Effect.Effect<void>
}

const stepsOf = (name: string, script: Script): ((index: number, request: LlmRequest) => Step) => {
  if (typeof script === "function") return script
  const last = script.at(-1)
  if (last === undefined) throw new RangeError(`ScriptedProvider.${name}: script must have at least one step, got none`)
  return (index) => script[index] ?? last
}

const outcomeOf = <A, E>(exit: Exit.Exit<A, E>): "answered" | "failed" | "interrupted" => {
  if (Exit.isSuccess(exit)) return "answered"
  return Exit.hasInterrupts(exit) ? "interrupted" : "failed"
}

const play = (
  step: Step,
  provider: string,
  model: string
): Stream.Stream<LlmResponse.LlmStreamPart, ProviderError.ProviderError> => {
  switch (step._tag) {
    case "Answer":
      return Provider.replay(
        LlmResponse.make({ content: step.content, served: { provider, model, from: "provider", attempts: [] } })
      )
    case "Stream":
      return Stream.flatMap(Stream.fromIterable(expanded(step.items)), (item) => {
        if (!("_tag" in item)) return Stream.succeed(item)
        return item._tag === "Pause" ? Stream.fromEffectDrain(Effect.sleep(item.duration)) : broken(item, provider)
      })
    case "Delay":
      return Stream.unwrap(Effect.as(Effect.sleep(step.duration), play(step.step, provider, model)))
    default:
      return broken(step, provider)
  }
}

const broken = (end: Break, provider: string): Stream.Stream<never, ProviderError.ProviderError> => {
  switch (end._tag) {
    case "Fail":
      return Stream.suspend(() => Stream.fail(end.error(provider)))
    case "Hang":
      return Stream.never
    case "Die":
      return Stream.die(end.defect)
  }
}

/** Puts texts into blocks and ends what is not broken with a `finish` part. */
const expanded = (items: ReadonlyArray<Item>): ReadonlyArray<Exclude<Item, string>> => {
  const parts: Array<Exclude<Item, string>> = []
  let blocks = 0
  let block: string | undefined
  const close = () => {
    if (block !== undefined) parts.push({ type: "text-end", id: block })
    block = undefined
  }
  let isOver = false
  let reason: Response.FinishReason = "stop"
  for (const item of items) {
    if (typeof item === "string") {
      if (block === undefined) {
        block = `text-${blocks++}`
        parts.push({ type: "text-start", id: block })
      }
      parts.push({ type: "text-delta", id: block, delta: item })
      continue
    }
    if ("_tag" in item) {
      isOver = isOver || item._tag !== "Pause"
    } else {
      close()
      isOver = isOver || item.type === "finish"
      if (item.type === "tool-call") reason = "tool-calls"
    }
    parts.push(item)
  }
  if (isOver) return parts
  close()
  parts.push({ type: "finish", reason, usage: LlmResponse.unknownUsage })
  return parts
}

const limitsOf = (step: Step): LlmResponse.Limits | undefined => {
  if (step._tag === "Delay") return limitsOf(step.step)
  return step._tag === "Answer" ? step.limits : undefined
}

/**
 * Answers with a text, or with any content.
 *
 * **Details**
 *
 * A `finish` part is added when the content has none: `tool-calls` if the content has one, else `stop`. `limits` are what the provider
 * reports with a whole answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const answer = (
  content: string | ReadonlyArray<Response.PartEncoded>,
  options?: {
    readonly finish?: Response.FinishReason | undefined
    readonly usage?: LlmResponse.Usage | undefined
    readonly limits?: LlmResponse.Limits | undefined
  }
): Step => {
  const parts: ReadonlyArray<Response.PartEncoded> =
    typeof content === "string" ? [{ type: "text", text: content }] : content
  const reason = options?.finish ?? (parts.some((part) => part.type === "tool-call") ? "tool-calls" : "stop")
  return {
    _tag: "Answer",
    content: parts.some((part) => part.type === "finish")
      ? parts
      : [...parts, { type: "finish", reason, usage: options?.usage ?? LlmResponse.unknownUsage }],
    limits: options?.limits
  }
}

/**
 * Answers with a stream, item by item.
 *
 * **Details**
 *
 * Texts become the deltas of a text block, which is opened and closed around them; parts are sent as they are. Unless a break or a
 * `finish` part ended it, the stream ends with `finish`.
 *
 * **Example** (Failing in the middle of a stream)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { LlmRequest } from "@llm-resilience/core"
 * import { ScriptedProvider } from "@llm-resilience/testing"
 *
 * const program = Effect.gen(function*() {
 *   const provider = yield* ScriptedProvider.make({
 *     script: [ScriptedProvider.stream(["Hel", ScriptedProvider.pause("5 millis"), "lo", ScriptedProvider.fail("ServerError")])]
 *   })
 *   const seen: Array<string> = []
 *   const error = yield* provider.stream(LlmRequest.make({ prompt: "Hi" })).pipe(
 *     Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && seen.push(part.delta))),
 *     Effect.flip
 *   )
 *   return [seen.join(""), error._tag]
 * })
 *
 * await Effect.runPromise(program) // => ["Hello", "APIError"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const stream = (items: ReadonlyArray<Item>): Step => ({ _tag: "Stream", items })

/**
 * Answers with a text that is streamed word by word.
 *
 * **Details**
 *
 * `every` is the time between two tokens, `first` the time before the first one; both default to zero. `broken` breaks the stream
 * after some tokens: `by` {@link cut}, {@link hang} (a stall), {@link fail} or {@link die}.
 *
 * **Example** (A stream that stalls after two words)
 *
 * ```ts import.meta.vitest
 * import { ScriptedProvider } from "@llm-resilience/testing"
 *
 * const stalling = ScriptedProvider.tokens("One two three", {
 *   every: "100 millis",
 *   broken: { after: 2, by: ScriptedProvider.hang }
 * })
 *
 * stalling._tag // => "Stream"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const tokens = (
  text: string,
  options?: {
    readonly every?: Duration.Input | undefined
    readonly first?: Duration.Input | undefined
    readonly broken?: { readonly after: number; readonly by: Break } | undefined
  }
): Step => {
  const broken = options?.broken
  if (broken !== undefined && (!Number.isInteger(broken.after) || broken.after < 0)) {
    throw new RangeError(`ScriptedProvider.tokens: broken.after must be an integer >= 0, got ${broken.after}`)
  }
  const between = pausing(options?.every)
  const items = tokensOf(text)
    .slice(0, broken?.after)
    .flatMap((token, index): ReadonlyArray<Item> => (index === 0 ? [token] : [...between, token]))
  return stream([...pausing(options?.first), ...items, ...(broken === undefined ? [] : [broken.by])])
}

const pausing = (duration: Duration.Input | undefined): ReadonlyArray<Pause> =>
  duration === undefined ? [] : [pause(duration)]

/**
 * Waits within a stream.
 *
 * @category constructors
 * @since 0.1.0
 */
export const pause = (duration: Duration.Input): Pause => ({
  _tag: "Pause",
  duration: Duration.fromInputUnsafe(duration)
})

/**
 * Fails with an error, or with the plain error of a kind.
 *
 * **Details**
 *
 * From a kind the error is made with the provider's own id. A `Timeout` is one of the whole attempt. `retryAfter` is what the provider
 * asks for, `status` its HTTP status.
 *
 * **Example** (Being limited)
 *
 * ```ts import.meta.vitest
 * import { ScriptedProvider } from "@llm-resilience/testing"
 *
 * const limited = ScriptedProvider.fail("RateLimited", { retryAfter: "10 seconds" })
 *
 * limited._tag // => "Fail"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fail = (
  error: ProviderError.ProviderError | ProviderError.Kind,
  options?: {
    readonly description?: string | undefined
    readonly retryAfter?: Duration.Input | undefined
    readonly shouldRetry?: boolean | undefined
    readonly status?: number | undefined
  }
): Break => {
  if (typeof error !== "string") return { _tag: "Fail", error: () => error }
  const retryAfter = options?.retryAfter === undefined ? undefined : Duration.fromInputUnsafe(options.retryAfter)
  const description = options?.description ?? "Scripted"
  const more = { description, shouldRetry: options?.shouldRetry, status: options?.status }
  return { _tag: "Fail", error: (provider) => errorOf(provider, error, retryAfter, more) }
}

/**
 * Breaks a stream off, as an adapter reports a connection that closed in the middle.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cut: Break = fail("StreamCut", { description: "The connection closed in the middle of the stream" })

/**
 * Never answers, or never goes on: ends only when the caller leaves.
 *
 * @category constructors
 * @since 0.1.0
 */
export const hang: Break = { _tag: "Hang" }

/**
 * Dies of a defect, as an adapter with a bug does. The provider contract turns it into an `APIError` that carries it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const die = (defect: unknown): Break => ({ _tag: "Die", defect })

/**
 * Waits before a step.
 *
 * @category combinators
 * @since 0.1.0
 */
export const delay = (duration: Duration.Input, step: Step): Step => ({
  _tag: "Delay",
  duration: Duration.fromInputUnsafe(duration),
  step
})

/**
 * Layer that provides a scripted provider, as a `Provider` and as itself.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Provider.Provider | ScriptedProvider> =>
  Layer.effectContext(
    Effect.map(make(options), (scripted) =>
      Context.make(Provider.Provider, scripted).pipe(Context.add(ScriptedProvider, scripted))
    )
  )
