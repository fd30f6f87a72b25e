/**
 * Serves an earlier answer when nobody can give a new one.
 *
 * Every complete answer is stored, behind the back of the call: storing never delays it and never fails it. When the chain is exhausted
 * (`LlmUnavailable`), the stored answer to the same request is served, marked as such: `served.from` is `cache`, `served.age` and
 * `served.stale` say how old it is, the attempts of the chain are kept, and a {@link Notice} tells the user.
 *
 * **Modes**
 *
 * - `if-unavailable`: the chain is asked first, the cache when nobody could answer. The default.
 * - `read-through`: a fresh answer is served without asking the chain, which saves time and money. A stale one only in an emergency.
 * - `stale-if-slow`: the chain is asked first; when nothing has come after a while, a stored answer takes its place and the chain is
 *   stopped. Without a stored answer the chain goes on.
 *
 * **Whose answers**
 *
 * An answer is served within its {@link CacheKey} partition only: the same tenant, the same subject, the same system prompt, tools, settings
 * and turns before. See `docs/emergency-cache.md` for what is stored, for whom, and how it is removed.
 *
 * **What is not stored**
 *
 * Answers that are truncated, refused, filtered, looping or empty, or that call tools; whatever ended with an error or was not read to its
 * end; requests that may not be cached; and what came from the cache itself.
 *
 * **How long**
 *
 * From the moment when it was given an answer is fresh for an hour and served for a day. Being served does not prolong it.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as CacheKey from "./CacheKey.ts"
import { CacheShadow } from "./CacheShadow.ts"
import * as CacheStore from "./CacheStore.ts"
import * as Entry from "./internal/cacheEntry.ts"
import { standIn } from "./internal/standIn.ts"
import { within } from "./internal/within.ts"
import type { CacheMatch, LlmRequest } from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as Notice from "./Notice.ts"
import type * as Policy from "./Policy.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"
import { SimilarAnswers } from "./SimilarAnswers.ts"

/**
 * A stored answer that serves a request.
 *
 * **Details**
 *
 * `key` is the key of the answer, which is another than that of the request when the question was only a similar one; then `question` is the
 * one that was answered.
 *
 * @category models
 * @since 0.1.0
 */
export interface Hit {
  readonly key: string
  readonly content: LlmResponse.LlmResponse["content"]
  readonly provider: string
  readonly model: string
  readonly degraded?: "smaller" | "shorter" | undefined
  readonly contributors?: LlmResponse.Served["contributors"]
  readonly match: CacheMatch
  readonly similarity: number
  readonly question?: string | undefined
  readonly age: Duration.Duration
  readonly stale: boolean
}

/**
 * Of what a request is asked, besides itself.
 *
 * **Details**
 *
 * `modelGroup` names the models whose answers stand in for each other. `match` is how close the question of a stored answer must be; a
 * request may ask for closer. `urgency` is `emergency` by default; for mere convenience a store that fails is left alone. `hub` is where it is told how it went.
 *
 * @category models
 * @since 0.1.0
 */
export interface Asking {
  readonly modelGroup: string
  readonly match?: CacheMatch | undefined
  readonly urgency?: "emergency" | "convenience" | undefined
  readonly hub?: ResilienceEvent.Hub | undefined
}

/**
 * What is to be removed: everything of a scope (the one without a name is `undefined`), of one subject of it, or one answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Removal =
  | { readonly scope: string | undefined; readonly subject?: string | undefined }
  | { readonly key: string }

/**
 * What the cache holds and what it did since its layer was built.
 *
 * **Details**
 *
 * `rejected` counts answers that are none to be stored, `dropped` those that came while too many were being stored or while the store was
 * left alone after failures, `failed` what the store could not do, in time or at all.
 *
 * @category models
 * @since 0.1.0
 */
export interface Statistics extends CacheStore.Statistics {
  readonly hits: number
  readonly misses: number
  readonly stored: number
  readonly rejected: number
  readonly dropped: number
  readonly failed: number
}

/**
 * Service that remembers answers. {@link policy} puts it to use.
 *
 * **Details**
 *
 * - `find` looks for a stored answer and returns none when the store is broken or slow. `remember` stores an answer in the background and
 *   returns at once. Neither ever fails.
 * - `keyOf` is the key of a request, if it has one.
 * - `remove` fails when the store fails, because somebody relies on it, and takes as long as the store does.
 *
 * @category services
 * @since 0.1.0
 */
export class EmergencyCache extends Context.Service<
  EmergencyCache,
  {
    readonly find: (request: LlmRequest, asking: Asking) => Effect.Effect<Option.Option<Hit>>
    readonly remember: (request: LlmRequest, response: LlmResponse.LlmResponse, asking: Asking) => Effect.Effect<void>
    readonly keyOf: (request: LlmRequest, modelGroup: string) => string | undefined
    readonly remove: (removal: Removal) => Effect.Effect<void, CacheStore.CacheStoreError>
    readonly statistics: Effect.Effect<Statistics>
  }
>()("@llm-resilience/core/EmergencyCache") {}

/**
 * Options of the cache.
 *
 * **Details**
 *
 * - `secret`: at least 16 bytes that only your processes know. Random by default, so that what a store kept is not found after a restart and
 *   by no other process: give one for every store but that in memory.
 * - `fresh`: how long an answer is as good as new, 1 hour by default. `staleIfError`: how long it may stand in for a new one, 24 hours by
 *   default, at most 7 days.
 * - `toolCalls`: whether answers that call tools are stored, `"never"` by default.
 * - `maxEntryLength`: how many characters the JSON of an answer may have, 262 144 by default. `maxRequestLength`: the same of a request.
 * - `readWithin`: how long a call waits for the store, 500 ms by default. `writeWithin`: how long storing one answer may take, 10 s.
 * - `maxWriting`: how many answers may be in the course of being stored, 64 by default; others are dropped.
 * - `rest`: after three failures of the store in a row, nothing is stored or looked for before asking the chain for so long, 10 s by
 *   default. In an emergency it is always asked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly secret?: Redacted.Redacted<string | Uint8Array> | undefined
  readonly fresh?: Duration.Input | undefined
  readonly staleIfError?: Duration.Input | undefined
  readonly toolCalls?: "never" | "store" | undefined
  readonly maxEntryLength?: number | undefined
  readonly maxRequestLength?: number | undefined
  readonly readWithin?: Duration.Input | undefined
  readonly writeWithin?: Duration.Input | undefined
  readonly maxWriting?: number | undefined
  readonly rest?: Duration.Input | undefined
}

/**
 * Layer that provides the cache over a {@link CacheStore}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<EmergencyCache, never, CacheStore.CacheStore> =>
  Layer.effect(EmergencyCache, make(options))

/**
 * Layer that provides the cache in the memory of this process.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options?: Options & CacheStore.Options): Layer.Layer<EmergencyCache> =>
  Layer.provide(layer(options), CacheStore.layerMemory(options))

/**
 * Creates the cache over a {@link CacheStore}.
 *
 * **Details**
 *
 * When `SimilarAnswers` is in the context, it learns the questions and finds similar ones. When `CacheShadow` is there too, each new answer is
 * compared with what a similar question would have been served.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  options?: Options
) => Effect.Effect<EmergencyCache["Service"], never, CacheStore.CacheStore | Scope.Scope> = Effect.fnUntraced(
  function* (options) {
    const fresh = Duration.toMillis(options?.fresh ?? "1 hour")
    const staleIfError = Duration.toMillis(options?.staleIfError ?? "24 hours")
    const readWithin = Duration.toMillis(options?.readWithin ?? "500 millis")
    const writeWithin = Duration.toMillis(options?.writeWithin ?? "10 seconds")
    const rest = Duration.toMillis(options?.rest ?? "10 seconds")
    const maxEntryLength = options?.maxEntryLength ?? 262_144
    const maxWriting = options?.maxWriting ?? 64
    const toolCalls = options?.toolCalls === "store"
    if (!(fresh >= 0 && fresh <= staleIfError && staleIfError <= maxLifetime)) {
      throw new RangeError(
        `EmergencyCache.make: fresh must be at most staleIfError and that at most 7 days, got ${fresh} ms and ${staleIfError} ms`
      )
    }
    if (!Number.isInteger(maxWriting) || maxWriting < 1) {
      throw new RangeError(`EmergencyCache.make: maxWriting must be an integer >= 1, got ${maxWriting}`)
    }

    const store = yield* CacheStore.CacheStore
    const similar = Option.getOrUndefined(yield* Effect.serviceOption(SimilarAnswers))
    const shadow = Option.getOrUndefined(yield* Effect.serviceOption(CacheShadow))
    const keys = CacheKey.make({
      secret: options?.secret ?? Redacted.make(SecureRandom.randomBytesUnsafe(32), { label: "EmergencyCache.secret" }),
      maxLength: options?.maxRequestLength
    })
    const counts = { hits: 0, misses: 0, stored: 0, rejected: 0, dropped: 0, failed: 0 }
    const writing = new Set<Fiber.Fiber<void>>()
    let failures = 0
    let restsUntil = -Infinity

    // Whoever shuts down does not wait for a store that cannot be stopped.
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const fiber of writing) fiber.interruptUnsafe()
      })
    )

    const failed = (
      request: LlmRequest,
      { hub }: Asking,
      operation: "read" | "write" | "decode",
      cause: unknown,
      key?: string
    ) =>
      Clock.clockWith((clock) => {
        counts.failed++
        if (operation !== "decode" && ++failures >= 3) restsUntil = clock.currentTimeMillisUnsafe() + rest
        if (hub?.active() === true) hub.publish({ _tag: "CacheFailed", request: request.id, operation, key, cause })
        return Effect.void
      })
    const worked = () => {
      failures = 0
      restsUntil = -Infinity
    }

    // A question that is not forgotten in time leads to nothing.
    const forget = (addresses: ReadonlyArray<CacheKey.Address>): Effect.Effect<void> =>
      similar === undefined || addresses.length === 0
        ? Effect.void
        : Effect.ignore(
            within(
              Effect.forEach(addresses, (address) => similar.forget({ key: CacheKey.format(address) }), {
                concurrency: 16,
                discard: true
              }),
              writeWithin,
              tooLate("remove"),
              0
            )
          )

    // What is at an address, if it is what should be there and may still be served.
    const fetch = (
      request: LlmRequest,
      asking: Asking,
      key: CacheKey.CacheKey,
      address: CacheKey.Address,
      how: { readonly match: CacheMatch; readonly similarity: number; readonly question?: string }
    ): Effect.Effect<Hit | Missed, CacheStore.CacheStoreError> =>
      Effect.flatMap(store.get(address), (text) => {
        worked()
        if (text === undefined) return Effect.succeed("absent" as const)
        const at = CacheKey.format(address)
        const unusable = (cause: unknown) =>
          Effect.as(failed(request, asking, "decode", cause, at), "unusable" as const)
        return Effect.matchEffect(Entry.decode(text), {
          onFailure: (error) => Effect.tap(unusable(error), () => Effect.ignore(store.remove(address))),
          onSuccess: (entry) =>
            Effect.flatMap(Clock.currentTimeMillis, (now): Effect.Effect<Hit | Missed> => {
              // The wall: whatever the store or the index did, an answer of another partition is none. It stays, because it may well be
              // the right answer for somebody else.
              if (entry.partition !== key.partition || entry.key !== at) return unusable("another partition or key")
              const age = now - entry.storedAt
              // The clock was set back by more than clocks of several machines may differ.
              if (age < -60_000 || age >= staleIfError) return Effect.succeed("expired")
              return Effect.succeed({
                key: entry.key,
                content: entry.content,
                provider: entry.provider,
                model: entry.model,
                degraded: entry.degraded,
                contributors: entry.contributors,
                ...how,
                age: Duration.millis(Math.max(0, age)),
                stale: age >= fresh
              })
            })
        })
      })

    const look = (request: LlmRequest, asking: Asking): Effect.Effect<Hit | Missed, CacheStore.CacheStoreError> => {
      const key = request.mayCache ? keys.of(request, asking.modelGroup) : undefined
      if (key === undefined) return Effect.succeed("absent")
      const exact = fetch(request, asking, key, key, { match: "exact", similarity: 1 })
      const question = key.question
      const allowed = closer(wanted(request), asking.match ?? "similar")
      if (similar === undefined || question === undefined || allowed === "exact") return exact
      return Effect.flatMap(exact, (found) => {
        if (typeof found !== "string") return Effect.succeed(found)
        return Effect.flatMap(
          similar.find(key.partition, question, { request: request.id, hub: asking.hub }),
          Option.match({
            onNone: () => Effect.succeed<Hit | Missed>(found),
            onSome: ({ key: other, match, question: answered, similarity }) => {
              const address = CacheKey.parse(other)
              // An exact miss cannot be answered by the entry that was just missed.
              if (address === undefined || other === key.key || closer(match, allowed) !== match)
                return Effect.succeed<Hit | Missed>(found)
              return Effect.tap(
                fetch(request, asking, key, address, { match, similarity, question: answered }),
                (hit) => (typeof hit === "string" ? similar.forget({ key: other }) : Effect.void)
              )
            }
          })
        )
      })
    }

    const find = (request: LlmRequest, asking: Asking): Effect.Effect<Option.Option<Hit>> =>
      within(
        Clock.clockWith((clock) =>
          asking.urgency === "convenience" && clock.currentTimeMillisUnsafe() < restsUntil
            ? Effect.succeed("absent" as const)
            : look(request, asking)
        ),
        readWithin,
        tooLate("get"),
        0
      ).pipe(
        Effect.catchCause((cause) =>
          Effect.as(failed(request, asking, "read", Cause.squash(cause)), "unusable" as const)
        ),
        Effect.map((found) => {
          const hub = asking.hub
          if (typeof found === "string") {
            counts.misses++
            if (hub?.active() === true) hub.publish({ _tag: "CacheMissed", request: request.id, because: found })
            return Option.none()
          }
          counts.hits++
          if (hub?.active() === true) {
            const { age, key, match, similarity, stale } = found
            hub.publish({ _tag: "CacheHit", request: request.id, key, match, similarity, age, stale })
          }
          return Option.some(found)
        })
      )

    // What a similar question would have been served, compared with the new answer.
    const overshadow = Effect.fnUntraced(function* (
      request: LlmRequest,
      asking: Asking,
      key: CacheKey.CacheKey,
      answer: string
    ) {
      if (shadow === undefined || similar === undefined || key.question === undefined) return
      const allowed = wanted(request)
      if (allowed === "exact") return
      const found = Option.getOrUndefined(yield* similar.find(key.partition, key.question))
      if (found?.key === key.key) return yield* shadow.asked("repeated")
      const address = found === undefined ? undefined : CacheKey.parse(found.key)
      if (found === undefined || address === undefined || closer(found.match, allowed) !== found.match)
        return yield* shadow.asked("none")
      const { match, question: storedQuestion, similarity } = found
      const hit = yield* fetch(request, asking, key, address, { match, similarity })
      if (typeof hit === "string") return yield* shadow.asked("none")
      yield* shadow.asked("hit")
      const storedAnswer = LlmResponse.make({
        content: hit.content,
        served: LlmResponse.servedBy({ id: "", model: "" })
      }).text
      const facts = { request: request.id, question: key.question, answer, key: found.key, match, similarity }
      yield* shadow.observe({ ...facts, storedQuestion, storedAnswer }, asking.hub)
    })

    const write = Effect.fnUntraced(function* (
      request: LlmRequest,
      response: LlmResponse.LlmResponse,
      asking: Asking,
      at: number
    ) {
      const rejected = (because: string) => {
        counts.rejected++
        if (asking.hub?.active() === true) asking.hub.publish({ _tag: "CacheRejected", request: request.id, because })
      }
      const flaw = Entry.flaw(request, response, toolCalls)
      if (flaw !== undefined) return rejected(flaw)
      const key = keys.of(request, asking.modelGroup)
      if (key === undefined) return rejected("a request that is too long or no JSON")
      const entry = yield* Effect.option(Entry.written(key, response, at))
      if (Option.isNone(entry)) return rejected("an answer that is no JSON")
      if (entry.value.length > maxEntryLength) return rejected("an answer that is too long")
      yield* Effect.ignore(overshadow(request, asking, key, response.text))
      const evicted = yield* store.set(key, entry.value, at + staleIfError)
      worked()
      counts.stored++
      yield* forget(evicted)
      if (evicted.some((address) => CacheKey.format(address) === key.key)) return
      if (key.question !== undefined) yield* similar?.remember(key.partition, key.question, key.key) ?? Effect.void
      if (asking.hub?.active() === true) asking.hub.publish({ _tag: "CacheStored", request: request.id, key: key.key })
    })

    return EmergencyCache.of({
      find,
      remember: (request, response, asking) =>
        Clock.clockWith((clock) => {
          if (!request.mayCache || response.served.from === "cache") return Effect.void
          const now = clock.currentTimeMillisUnsafe()
          if (writing.size >= maxWriting || now < restsUntil) {
            counts.dropped++
            if (asking.hub?.active() === true)
              asking.hub.publish({ _tag: "CacheRejected", request: request.id, because: "too busy" })
            return Effect.void
          }
          return within(
            Effect.suspend(() => write(request, response, asking, now)),
            writeWithin,
            tooLate("set"),
            // A store that cannot be stopped keeps its place, so that no more and more of them pile up.
            Infinity
          ).pipe(
            Effect.catchCause((cause) => failed(request, asking, "write", Cause.squash(cause))),
            Effect.forkDetach,
            Effect.map((fiber) => {
              writing.add(fiber)
              fiber.addObserver(() => writing.delete(fiber))
            })
          )
        }),
      keyOf: (request, modelGroup) => keys.of(request, modelGroup)?.key,
      remove: (removal) =>
        Effect.catchDefect(
          Effect.suspend(() => {
            if (!("key" in removal)) {
              const subject = removal.subject === undefined ? undefined : keys.subject(removal.scope, removal.subject)
              return Effect.flatMap(store.removeAll(keys.scope(removal.scope), subject), forget)
            }
            const address = CacheKey.parse(removal.key)
            return address === undefined ? Effect.void : Effect.andThen(store.remove(address), forget([address]))
          }),
          (cause) => Effect.fail(new CacheStore.CacheStoreError({ operation: "remove", cause }))
        ),
      statistics: Effect.map(store.statistics, (statistics) => ({ ...statistics, ...counts }))
    })
  }
)

const tooLate = (operation: CacheStore.CacheStoreError["operation"]) => () =>
  Effect.fail(new CacheStore.CacheStoreError({ operation, cause: "It took too long" }))

const maxLifetime = Duration.toMillis("7 days")

type Missed = "absent" | "expired" | "unusable"

/** How close a question must be, as far as the request says. */
const wanted = (request: LlmRequest): CacheMatch =>
  request.cacheMatch ?? (request.tools.length > 0 || request.responseFormat.type === "json" ? "exact" : "similar")

const closer = (left: CacheMatch, right: CacheMatch): CacheMatch =>
  left === "exact" || right === "exact"
    ? "exact"
    : left === "canonical" || right === "canonical"
      ? "canonical"
      : "similar"

/**
 * Options of {@link policy}.
 *
 * **Details**
 *
 * - `mode`: `"if-unavailable"` by default; see the module's documentation.
 * - `slowAfter`: how long `"stale-if-slow"` waits for an answer, or for the first content of a stream, 5 s by default.
 * - `modelGroup`: names the models whose answers stand in for each other. By default the id and the models of what the policy is put around,
 *   so that another chain has other answers.
 * - `match`: how close the question of a stored answer must be, `"similar"` by default. It takes `SimilarAnswers` for more than `"exact"`,
 *   and requests with tools or a JSON schema are served exact answers unless they ask for more.
 * - `question`: with `"tell"`, `served.question` is the question that a canonical or similar answer was written for, `"withhold"` by default. It
 *   may be of another user of the same scope: tell it only where they may read each other's questions.
 *
 * @category models
 * @since 0.1.0
 */
export interface PolicyOptions {
  readonly mode?: "if-unavailable" | "read-through" | "stale-if-slow" | undefined
  readonly slowAfter?: Duration.Input | undefined
  readonly modelGroup?: string | undefined
  readonly match?: CacheMatch | undefined
  readonly question?: "tell" | "withhold" | undefined
}

/**
 * Creates the policy. It belongs around a chain: `LlmResilience.layer({ around: EmergencyCache.policy() })`.
 *
 * **Details**
 *
 * As a step of a larger chain it stores answers, but serves none while another step may still answer.
 *
 * **Example** (Serving yesterday's answer)
 *
 * ```ts import.meta.vitest
 * import { EmergencyCache, LlmResilience } from "@llm-resilience/core"
 * import { ScriptedProvider } from "@llm-resilience/testing"
 * import { Effect, Layer } from "effect"
 *
 * const resilient = LlmResilience.layer({
 *   steps: [{
 *     provider: ScriptedProvider.layer({
 *       script: [ScriptedProvider.answer("Paris."), ScriptedProvider.fail("QuotaExhausted")]
 *     })
 *   }],
 *   around: EmergencyCache.policy()
 * }).pipe(Layer.provide(EmergencyCache.layerMemory()))
 *
 * const program = Effect.gen(function*() {
 *   const ask = LlmResilience.generate({ prompt: "What is the capital of France?" })
 *   yield* ask
 *   yield* Effect.sleep("10 millis")
 *   return yield* ask
 * })
 * const { served, text } = await Effect.runPromise(Effect.provide(program, resilient))
 *
 * text // => "Paris."
 * served.from // => "cache"
 * served.attempts.length // => 1
 * served.notice?.message // => "The service is unavailable. This is an earlier answer, from 1 second ago."
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: PolicyOptions): Policy.Policy<EmergencyCache> => {
  const mode = options?.mode ?? "if-unavailable"
  const slowAfter = Duration.fromInputUnsafe(options?.slowAfter ?? "5 seconds")
  return (self) =>
    Effect.gen(function* () {
      const cache = yield* EmergencyCache
      const hub = yield* ResilienceEvent.CurrentHub
      const translate = yield* Notice.translator
      const asking = { modelGroup: options?.modelGroup ?? `${self.id}: ${self.model}`, match: options?.match, hub }
      return standIn(self, cache, asking, { mode, slowAfter, tells: options?.question === "tell", translate })
    })
}
