import type * as Duration from "effect/Duration"
import * as Attempt from "../Attempt.ts"
import type { Served } from "../LlmResponse.ts"
import type { definitions } from "../Metrics.ts"
import type { Status } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import type { Of, ResilienceEvent } from "../ResilienceEvent.ts"
import type * as Meters from "./meters.ts"
import { millisOf } from "./monotonic.ts"

/** What records into each family. */
export type Recorders = {
  readonly [K in keyof typeof definitions]: Meters.Record<(typeof definitions)[K]["labels"]>
}

/** What is known from events. */
export interface Counting {
  /** Puts the series of a step in place, before anything has happened to it. */
  readonly begin: (step: Status) => void
  readonly count: (event: ResilienceEvent) => void
  /** How many requests are under way. */
  readonly underWay: () => number
}

const isolating = ["Authentication", "PermissionDenied", "QuotaExhausted", "ModelNotFound"] as const

const startAtZero = (record: Recorders, provider: string): void => {
  record.attempts(0, provider, "succeeded", "")
  record.answers(0, provider, "provider", "false")
  record.answers(0, provider, "provider", "true")
  record.answers(0, provider, "cache", "false")
  record.cooldowns(0, provider)
  for (const reason of isolating) record.isolations(0, provider, reason)
}

const healthStates = ["healthy", "degraded", "unhealthy"] as const
const circuitStates = ["Closed", "Open", "HalfOpen", "Isolated"] as const

const showState = (
  record: Meters.Record<readonly ["provider", "state"]>,
  states: Iterable<string>,
  provider: string,
  now: string
): void => {
  for (const state of states) record(state === now ? 1 : 0, provider, state)
}

// The overhead is a distribution, for which a part of the requests is enough: to follow every one would be a good part of it.
const followed = (request: number): boolean => request % 16 === 1

// Requests end exactly once. Should the ends of many be missed, this is the most that is remembered.
const maxFollowed = 10_000

const sourceOf = ({ from, notice }: Served): string =>
  from === "cache" && notice?._tag === "Cached" && notice.because === "fresh" ? "fresh cache" : from

/** Says of each event what it changes in the metrics. */
export const make = (record: Recorders): Counting => {
  let underWay = 0

  // Milliseconds of a request that were not ours.
  const away = new Map<number, number>()

  const ended = (event: Of<"RequestAnswered" | "RequestFailed" | "RequestAbandoned">, outcome: string): void => {
    const { duration, method, request } = event
    const took = millisOf(duration)
    // One that began before the layer did was never counted.
    underWay = Math.max(0, underWay - 1)
    record.duration(took / 1000, method, outcome)
    if (!followed(request)) return
    const waited = away.get(request)
    away.delete(request)
    // Calls that overlap, of a hedge, are longer together than the request.
    if (waited !== undefined && outcome === "answered") record.overhead(Math.max(0, took - waited) / 1000, method)
  }

  const awayFrom = (request: number, duration: Duration.Duration): void => {
    if (!followed(request)) return
    const waited = away.get(request)
    if (waited !== undefined) away.set(request, waited + millisOf(duration))
  }

  // An event without a place here does not compile.
  const counters: { readonly [T in ResilienceEvent["_tag"]]: (event: Of<T>) => void } = {
    RequestStarted: ({ request }) => {
      underWay++
      if (followed(request) && away.size < maxFollowed) away.set(request, 0)
    },
    RequestAnswered: (event) => {
      const { served } = event
      ended(event, "answered")
      const fallback = served.from === "provider" && served.attempts.length > 0 ? "true" : "false"
      record.answers(1, served.provider, sourceOf(served), fallback)
      if (served.degraded !== undefined) record.degraded(1, served.provider, served.degraded)
    },
    RequestFailed: (event) => {
      const { error } = event
      ended(
        event,
        error._tag !== "LlmUnavailable" ? "failed" : error.notice._tag === "Queued" ? "queued" : "unavailable"
      )
    },
    RequestAbandoned: (event) => ended(event, "abandoned"),
    AttemptStarted: () => {},
    AttemptSucceeded: ({ provider }) => record.attempts(1, provider, "succeeded", ""),
    AttemptSuperseded: ({ provider }) => record.attempts(1, provider, "superseded", ""),
    AttemptFailed: ({ attempt, provider }) => record.attempts(1, provider, "failed", Attempt.kind(attempt)),
    StepSkipped: ({ provider, reason }) => record.skips(1, provider, reason._tag),
    FellBack: ({ because, from, to }) => record.fallbacks(1, from, to, Attempt.kind(because)),
    Called: (event) => {
      const { costUsd, duration, error, firstContentAfter, model, outcome, provider, request, responseModel, usage } =
        event
      const answering = responseModel ?? model
      awayFrom(request, duration)
      const failed = error === undefined ? (outcome === "abandoned" ? "abandoned" : "") : ProviderError.kind(error)
      record.callDuration(millisOf(duration) / 1000, "chat", provider, model, answering, failed)
      if (firstContentAfter !== undefined) {
        record.firstChunk(millisOf(firstContentAfter) / 1000, "chat", provider, model, answering)
      }
      const input = usage?.inputTokens.total
      const output = usage?.outputTokens.total
      if (input !== undefined) record.tokens(input, "chat", provider, model, answering, "input")
      if (output !== undefined) record.tokens(output, "chat", provider, model, answering, "output")
      if (costUsd !== undefined) record.cost(costUsd, provider, model)
    },
    Retried: ({ delay, error, provider, request }) => {
      awayFrom(request, delay)
      record.retries(1, provider, ProviderError.kind(error))
    },
    Throttled: ({ limit, provider, request, wait }) => {
      if (wait !== undefined) awayFrom(request, wait)
      record.throttled(wait === undefined ? 0 : millisOf(wait) / 1000, provider, limit)
    },
    LimitStoreFailed: ({ operation, provider }) => record.limitFailures(1, provider, operation),
    Shed: ({ priority, provider }) => record.shed(1, provider, priority),
    Hedged: ({ provider, to }) => record.hedges(1, provider, to),
    BudgetExhausted: ({ extra, provider }) => record.budgets(1, provider, extra),
    ChaosInjected: ({ fault, provider }) => record.chaos(1, provider, fault),
    Committed: ({ after, provider }) => record.firstContent(millisOf(after) / 1000, provider),
    Recovered: ({ by, from, to }) => record.recoveries(1, from, to, by),
    RecoveryFailed: ({ from }) => record.recoveries(1, from, "", "failed"),
    CacheHit: ({ age, match, similarity, stale }) => {
      record.lookups(1, stale ? "stale" : "hit", match)
      record.cacheAge(millisOf(age) / 1000, match)
      record.similarity(similarity, match)
    },
    CacheMissed: ({ because }) => record.lookups(1, because, ""),
    CacheStored: () => record.writes(1, "stored", ""),
    CacheRejected: ({ because }) => record.writes(1, "rejected", because),
    CacheFailed: ({ operation }) => record.cacheFailures(1, operation),
    SimilarRefused: ({ reason, similarity }) => record.similarRefused(similarity, reason),
    EmbedderFailed: () => record.cacheFailures(1, "embed"),
    CacheShadowed: ({ match, similarity, verdict }) => record.shadowed(similarity, match, verdict),
    Deferred: () => record.deferred(1, "Accepted"),
    DeferralRefused: ({ reason }) => record.refused(1, reason),
    DeferredEnded: ({ outcome }) => record.deferred(1, outcome),
    DeferredStoreFailed: ({ operation }) => record.storeFailures(1, operation),
    NoticeGiven: ({ notice }) => record.notices(1, notice._tag),
    DefectCaught: ({ provider }) => record.defects(1, provider),
    CircuitChanged: ({ from, provider, to }) => {
      record.transitions(1, provider, from, to)
      showState(record.circuit, circuitStates, provider, to)
    },
    CooledDown: ({ provider }) => record.cooldowns(1, provider),
    Isolated: ({ because, provider }) => record.isolations(1, provider, because),
    HealthChanged: ({ provider, to }) => {
      showState(record.health, healthStates, provider, to)
    },
    HealthChecked: ({ duration, provider, verdict }) => record.checks(millisOf(duration) / 1000, provider, verdict)
  }
  return {
    begin: ({ circuit, health, provider }) => {
      startAtZero(record, provider)
      if (circuit !== undefined) showState(record.circuit, circuitStates, provider, circuit._tag)
      if (health !== undefined) showState(record.health, healthStates, provider, health.state)
    },
    // Each function takes the event of its own key, which the compiler cannot follow through a lookup.
    count: (event) => (counters[event._tag] as (event: ResilienceEvent) => void)(event),
    underWay: () => underWay
  }
}
