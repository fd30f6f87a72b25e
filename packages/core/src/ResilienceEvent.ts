/**
 * What happened while requests were served, as one stream of typed events.
 *
 * Logs, metrics, spans, status pages and tests read the same events. They cost nothing while nobody listens: a policy asks
 * {@link Hub.active} before it builds one. Who reads the stream never slows a call: its queue is bounded and drops the oldest. Who may not
 * miss one, such as a counter, listens in the moment it happens, and is quick about it.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Duration from "effect/Duration"
import type { Attempt, SkipReason } from "./Attempt.ts"
import type { Decision } from "./Decision.ts"
import * as Text from "./internal/eventText.ts"
import type { Priority } from "./LlmRequest.ts"
import type { Reason } from "./DifferenceGuard.ts"
import type { Served, Usage } from "./LlmResponse.ts"
import type { LlmUnavailable } from "./LlmUnavailable.ts"
import type { Notice } from "./Notice.ts"
import type { ProviderError } from "./ProviderError.ts"

interface OfRequest {
  /** Ties the events of one request together; 0 when the call did not come through `LlmResilience`. */
  readonly request: number
}

interface OfMethod extends OfRequest {
  readonly method: "generate" | "stream"
}

interface OfProvider {
  readonly provider: string
}

/**
 * Something that happened.
 *
 * **Details**
 *
 * - `RequestStarted`, `RequestAnswered`, `RequestFailed`, `RequestAbandoned`: the life of a request; exactly one of the last
 *   three ends it. `RequestAbandoned` means that the caller left.
 * - `AttemptStarted`, `AttemptSucceeded`, `AttemptFailed`: one step of the chain was called; the failure says what was decided.
 * - `StepSkipped`: a step was passed over. `FellBack`: the chain turned from one step to another, and why.
 * - `Called`: one call to a provider ended. Retries, hedges and answers that a guard rejected are calls of their own: what `usage` and
 *   `costUsd` say of them, the provider will be paid for.
 * - `Retried`: the same provider is asked again after `delay`.
 * - `Committed`: the first content of a stream is on its way to the caller.
 * - `AttemptSucceeded` of a stream means that its first content came; how it ended, the events of the request tell.
 * - `Recovered`: a stream that broke after its first content goes on with another provider. `RecoveryFailed`: it does not.
 * - `AttemptSuperseded`: a step was given up because another one, asked at the same time, answered first. `Hedged`: `to` is asked as well,
 *   because `provider` has been silent for `after`.
 * - `BudgetExhausted`: a retry or a hedge was not sent, because the provider has had its share of them. `Throttled`: a limit of our own kept a
 *   call from the provider, for `wait`, or altogether. `Shed`: a call gave up its place in the line to one that matters more.
 *   `LimitStoreFailed`: the store of the rate limits failed, and the call passed unlimited.
 * - `HealthChanged`: a provider is doing better or worse than before. `HealthChecked`: a probe of ours came to its end;
 *   one that was turned away says nothing, its verdict is `none`.
 * - `CircuitChanged`, `CooledDown`, `Isolated`: a provider's state changed for all requests.
 * - `ChaosInjected`: a test or a drill made this fault happen on purpose.
 * - `DefectCaught`: code around a provider (a judge of its output, a routing strategy) died; `cause` is for its author. A defect of the provider itself is an
 *   `AttemptFailed` whose error carries it.
 * - `CacheHit`, `CacheMissed`: the emergency cache was asked and had, or had not, an answer. `CacheStored`, `CacheRejected`: an answer was
 *   stored, or not and why. `CacheFailed`: the cache could not do its work, which no call notices; `key` and `cause` are for its operator.
 * - `SimilarRefused`: questions near to this one have a stored answer, and the guard refused them all; `reason` is that of the nearest.
 *   `EmbedderFailed`: similar questions could not be looked for, because the embedder failed, was busy or was late.
 * - `CacheShadowed`: an answer was stored that a similar question could have had from the cache, and that was compared with it.
 * - `Deferred`: nobody could answer, and the request waits in the queue. `DeferralRefused`: it may wait, but the queue did not take it.
 * - `DeferredEnded`: a waiting request came to its end. `DeferredStoreFailed`: the store of the queue failed; nothing accepted is lost.
 * - `NoticeGiven`: the end user is told something.
 *
 * @category models
 * @since 0.1.0
 */
export type ResilienceEvent =
  | ({ readonly _tag: "RequestStarted" } & OfMethod)
  | ({ readonly _tag: "RequestAnswered"; readonly served: Served; readonly duration: Duration.Duration } & OfMethod)
  | ({
      readonly _tag: "RequestFailed"
      readonly error: ProviderError | LlmUnavailable
      readonly duration: Duration.Duration
    } & OfMethod)
  | ({ readonly _tag: "RequestAbandoned"; readonly duration: Duration.Duration } & OfMethod)
  | ({ readonly _tag: "AttemptStarted"; readonly model: string } & OfRequest & OfProvider)
  | ({ readonly _tag: "AttemptSucceeded"; readonly duration: Duration.Duration } & OfRequest & OfProvider)
  | ({
      readonly _tag: "AttemptFailed"
      readonly attempt: Extract<Attempt, { readonly _tag: "Failed" }>
      readonly decision: Decision
    } & OfRequest &
      OfProvider)
  | ({ readonly _tag: "AttemptSuperseded"; readonly duration: Duration.Duration } & OfRequest & OfProvider)
  | ({ readonly _tag: "Hedged"; readonly to: string; readonly after: Duration.Duration } & OfRequest & OfProvider)
  | ({ readonly _tag: "BudgetExhausted"; readonly extra: "retry" | "hedge" } & OfProvider)
  | ({
      readonly _tag: "Throttled"
      readonly limit: "requests" | "tokens" | "concurrency" | "rejections"
      readonly wait?: Duration.Duration | undefined
    } & OfRequest &
      OfProvider)
  | ({
      readonly _tag: "LimitStoreFailed"
      readonly operation: "take" | "give"
      readonly cause: unknown
    } & OfProvider)
  | ({ readonly _tag: "Shed"; readonly priority: Priority } & OfRequest & OfProvider)
  | ({
      readonly _tag: "HealthChanged"
      readonly from: "healthy" | "degraded" | "unhealthy"
      readonly to: "healthy" | "degraded" | "unhealthy"
      readonly because: string
    } & OfProvider)
  | ({
      readonly _tag: "HealthChecked"
      readonly verdict: "good" | "bad" | "none"
      readonly duration: Duration.Duration
      readonly error?: ProviderError | undefined
    } & OfProvider)
  | ({ readonly _tag: "StepSkipped"; readonly reason: SkipReason } & OfRequest & OfProvider)
  | ({ readonly _tag: "FellBack"; readonly from: string; readonly to: string; readonly because: Attempt } & OfRequest)
  | ({
      readonly _tag: "Called"
      readonly model: string
      readonly method: "generate" | "stream"
      readonly outcome: "succeeded" | "failed" | "abandoned"
      readonly duration: Duration.Duration
      /** For a stream that came to its first content. */
      readonly firstContentAfter?: Duration.Duration | undefined
      readonly error?: ProviderError | undefined
      readonly usage?: Usage | undefined
      readonly costUsd?: number | undefined
      readonly finishReason?: string | undefined
      /** What the provider itself calls the model and the answer. */
      readonly responseModel?: string | undefined
      readonly responseId?: string | undefined
    } & OfRequest &
      OfProvider)
  | ({
      readonly _tag: "Retried"
      readonly attempt: number
      readonly delay: Duration.Duration
      readonly error: ProviderError
    } & OfRequest &
      OfProvider)
  | ({ readonly _tag: "Committed"; readonly after: Duration.Duration } & OfRequest & OfProvider)
  | ({
      readonly _tag: "Recovered"
      readonly from: string
      readonly to: string
      readonly by: "continue" | "restart"
      readonly error: ProviderError
    } & OfRequest)
  | ({
      readonly _tag: "RecoveryFailed"
      readonly from: string
      readonly error: ProviderError
      readonly attempts: ReadonlyArray<Attempt>
    } & OfRequest)
  | ({
      readonly _tag: "CacheHit"
      readonly key: string
      readonly match: "exact" | "canonical" | "similar"
      readonly similarity: number
      readonly age: Duration.Duration
      readonly stale: boolean
    } & OfRequest)
  | ({ readonly _tag: "CacheMissed"; readonly because: "absent" | "expired" | "unusable" } & OfRequest)
  | ({ readonly _tag: "CacheStored"; readonly key: string } & OfRequest)
  | ({ readonly _tag: "CacheRejected"; readonly because: string } & OfRequest)
  | ({
      readonly _tag: "CacheFailed"
      readonly operation: "read" | "write" | "decode"
      readonly key?: string | undefined
      readonly cause: unknown
    } & OfRequest)
  | ({ readonly _tag: "SimilarRefused"; readonly similarity: number; readonly reason: Reason } & OfRequest)
  | ({
      readonly _tag: "EmbedderFailed"
      readonly embedder: string
      readonly because: "failed" | "busy" | "late"
      readonly cause?: unknown
    } & OfRequest)
  | ({
      readonly _tag: "CacheShadowed"
      readonly key: string
      readonly match: "canonical" | "similar"
      readonly similarity: number
      readonly verdict: "right" | "wrong" | "unsure"
    } & OfRequest)
  | ({ readonly _tag: "Deferred"; readonly ticket: string } & OfRequest)
  | ({
      readonly _tag: "DeferralRefused"
      readonly reason: "QueueFull" | "NotDeferrable" | "StoreError"
    } & OfRequest)
  | {
      readonly _tag: "DeferredEnded"
      readonly ticket: string
      readonly outcome: "Answered" | "Expired" | "Cancelled" | "Dead"
    }
  | { readonly _tag: "DeferredStoreFailed"; readonly operation: string; readonly cause: unknown }
  | ({ readonly _tag: "NoticeGiven"; readonly notice: Notice } & OfRequest)
  | ({ readonly _tag: "DefectCaught"; readonly cause: unknown } & OfProvider)
  | ({
      readonly _tag: "CircuitChanged"
      readonly from: "Closed" | "Open" | "HalfOpen" | "Isolated"
      readonly to: "Closed" | "Open" | "HalfOpen" | "Isolated"
      readonly retryAfter?: Duration.Duration | undefined
    } & OfProvider)
  | ({ readonly _tag: "ChaosInjected"; readonly fault: string } & OfRequest & OfProvider)
  | ({ readonly _tag: "CooledDown"; readonly duration: Duration.Duration } & OfProvider)
  | ({
      readonly _tag: "Isolated"
      readonly because: string
      readonly duration?: Duration.Duration | undefined
    } & OfProvider)
  | ({
      readonly _tag: "HealthChanged"
      readonly from: string
      readonly to: string
      readonly because: string
    } & OfProvider)

/**
 * The event of one tag.
 *
 * @category models
 * @since 0.1.0
 */
export type Of<Tag extends ResilienceEvent["_tag"]> = Extract<ResilienceEvent, { readonly _tag: Tag }>

/**
 * Says an event in one line, for people.
 *
 * **Details**
 *
 * It names providers, kinds of errors, times and counts. What a provider wrote, and everything that could be a part of a prompt, an answer or
 * a key, is left out.
 *
 * **Example** (One line for the log)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { ResilienceEvent } from "@llm-resilience/core"
 *
 * ResilienceEvent.format({ _tag: "CooledDown", provider: "anthropic", duration: Duration.seconds(20) })
 * // => "anthropic asked for rest: 20s"
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format: (event: ResilienceEvent) => string = Text.format

/**
 * Returns what an event says as flat attributes, for logs and spans. Like {@link format} it holds nothing that somebody wrote.
 *
 * **Details**
 *
 * Names begin with `llm_resilience.`, and `llm_resilience.event` is the tag. Durations are in seconds. What would be empty is left out.
 *
 * @category formatting
 * @since 0.1.0
 */
export const facts: (event: ResilienceEvent) => Facts = Text.facts

/**
 * Flat attributes of an event.
 *
 * @category models
 * @since 0.1.0
 */
export type Facts = { readonly [name: string]: string | number | boolean }

/**
 * Where policies publish and listeners subscribe.
 *
 * @category models
 * @since 0.1.0
 */
export interface Hub {
  /** Whether anybody listens. Ask before building an event. */
  readonly active: () => boolean
  /** Hands an event to every listener, synchronously and without ever failing. */
  readonly publish: (event: ResilienceEvent) => void
  /**
   * Calls a function with every event, or with those of the given tags, while the scope lives, in the fiber in which it happens: the function has to
   * be quick. When it throws, the event counts as dropped.
   */
  readonly listen: (
    listener: (event: ResilienceEvent) => void,
    tags?: Iterable<ResilienceEvent["_tag"]>
  ) => Effect.Effect<void, never, Scope.Scope>
  /** The events from the moment of subscription on. Each subscription holds at most `capacity` unread events. */
  readonly stream: Stream.Stream<ResilienceEvent>
  /** Ends the stream of every listener. */
  readonly end: Effect.Effect<void>
  /** How many events did not reach a listener, because it was too slow or threw. */
  readonly dropped: () => number
}

/**
 * Creates a hub.
 *
 * **Details**
 *
 * `capacity` is the number of unread events kept for each stream, 1024 by default; beyond it the oldest is dropped and counted.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeHub = (options?: { readonly capacity?: number | undefined }): Hub => {
  const capacity = options?.capacity ?? 1024
  if (!Number.isInteger(capacity) || capacity < 1) {
    throw new RangeError(`ResilienceEvent.makeHub: capacity must be an integer >= 1, got ${capacity}`)
  }
  // Replaced and never changed, so that somebody who comes or goes while an event is handed out does not disturb that.
  let listeners: ReadonlyArray<Listener> = []
  // Most listeners care for few events, so who is told is looked up and not asked.
  let byTag = new Map<string, ReadonlyArray<Listener>>()
  const queues = new Set<Queue.Queue<ResilienceEvent, Cause.Done>>()
  let dropped = 0
  const change = (next: ReadonlyArray<Listener>): void => {
    listeners = next
    byTag = new Map()
  }
  const told = (tag: string): ReadonlyArray<Listener> => {
    const known = byTag.get(tag)
    if (known !== undefined) return known
    const wanting = listeners.filter(({ tags }) => tags === undefined || tags.has(tag))
    byTag.set(tag, wanting)
    return wanting
  }
  const listen: Hub["listen"] = (listener, tags) => {
    const own: Listener = { tell: listener, tags: tags === undefined ? undefined : new Set(tags) }
    return Effect.acquireRelease(
      Effect.sync(() => change([...listeners, own])),
      () => Effect.sync(() => change(listeners.filter((other) => other !== own)))
    )
  }
  return {
    active: () => listeners.length > 0,
    publish: (event) => {
      const wanting = told(event._tag)
      for (let next = 0; next < wanting.length;) {
        // A listener is the user's code, and the call in whose fiber it runs must not pay for its mistakes.
        try {
          while (next < wanting.length) wanting[next++]?.tell(event)
        } catch {
          dropped++
        }
      }
    },
    listen,
    stream: Stream.unwrap(
      Effect.gen(function* () {
        const queue = yield* Effect.acquireRelease(
          Effect.tap(Queue.sliding<ResilienceEvent, Cause.Done>(capacity), (queue) =>
            Effect.sync(() => queues.add(queue))
          ),
          (queue) =>
            Effect.andThen(
              Effect.sync(() => queues.delete(queue)),
              Queue.shutdown(queue)
            )
        )
        yield* listen((event) => {
          if (Queue.sizeUnsafe(queue) >= capacity) dropped++
          Queue.offerUnsafe(queue, event)
        })
        return Stream.fromQueue(queue)
      })
    ),
    end: Effect.suspend(() => Effect.forEach(queues, Queue.end, { discard: true })),
    dropped: () => dropped
  }
}

interface Listener {
  readonly tell: (event: ResilienceEvent) => void
  readonly tags: ReadonlySet<string> | undefined
}

/**
 * Creates a hub whose listeners see the end of their stream when the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scopedHub = (options?: {
  readonly capacity?: number | undefined
}): Effect.Effect<Hub, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => makeHub(options)),
    (hub) => hub.end
  )

const silent: Hub = {
  active: () => false,
  publish: () => {},
  listen: () => Effect.void,
  stream: Stream.empty,
  end: Effect.void,
  dropped: () => 0
}

/**
 * The hub in force. Policies read it once, when they are built; without one, events go nowhere.
 *
 * @category references
 * @since 0.1.0
 */
export const CurrentHub = Context.Reference<Hub>("@llm-resilience/core/ResilienceEvent/CurrentHub", {
  defaultValue: () => silent
})
