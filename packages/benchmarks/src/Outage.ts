/**
 * Fifty users a second, and a primary that dies in three ways, one after another, and comes back.
 */
import * as Fault from "@llm-resilience/testing/Fault"
import * as Upstream from "@llm-resilience/testing/Upstream"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { limits } from "./Survival.ts"
import type { Crashed, Outcome, Running } from "./Systems.ts"

/** What the primary does, in sixths of the whole time: one of health, three of outage, two of health again. */
const phases = [
  { fault: undefined, sixths: 1 },
  { fault: Fault.status(503), sixths: 1 },
  { fault: Fault.silence, sixths: 1 },
  { fault: Fault.resetBeforeHeaders, sixths: 1 },
  { fault: undefined, sixths: 2 }
] as const

export const perSecond = 50

/** One second of the chart. */
export interface Second {
  readonly answered: number
  readonly failed: number
  readonly p95Millis: number
}

export interface Run {
  readonly system: string
  readonly seconds: ReadonlyArray<Second>
  readonly outage: { readonly from: number; readonly to: number }
  /** Of the calls that began during the outage. */
  readonly answeredShare: number
  readonly p50Millis: number
  readonly p95Millis: number
  readonly p99Millis: number
  readonly worstMillis: number
  /** Requests that reached the primary while it was dead. */
  readonly callsToDead: number
  /** Of all requests in the whole run, to both upstreams, for each call of a user. */
  readonly requestsPerCall: number
  /** From the end of the outage until nine of ten requests of a second went to the primary again; `undefined` if not within the run. */
  readonly secondsToReturn: number | undefined
  readonly unhandled: number
}

/** A run of one system against upstreams of its own. */
export const run = (running: Running, seconds: number): Effect.Effect<Run, Crashed> =>
  Effect.gen(function* () {
    const upstream = Upstream.make({ answer: "All is well.", tokenEvery: "30 millis", maxRequests: 1_000_000 })
    const primary = yield* upstream
    const backup = yield* upstream
    const sixth = seconds / 6
    const load = (seconds: number) =>
      running.order({
        _tag: "Load",
        upstreams: { primary: primary.baseUrl, backup: backup.baseUrl },
        limits,
        perSecond,
        seconds,
        patienceMillis: limits.deadlineMillis + 3000
      })
    // The first calls of a process compile what they need, and are not part of the run.
    yield* load(5)
    const skipped = (yield* primary.requests).length
    const clock = Clock.Clock.defaultValue()
    const begin = clock.currentTimeMillisUnsafe()
    yield* Effect.forkScoped(
      Effect.forEach(phases, ({ fault, sixths }) =>
        Effect.andThen(primary.setFault(fault), Effect.sleep(sixths * sixth * 1000))
      )
    )
    const outcomes = yield* load(seconds)
    const arrivals = (requests: ReadonlyArray<Upstream.Recorded>) =>
      requests.map(({ receivedAt }) => (receivedAt - begin) / 1000)
    const toPrimary = arrivals((yield* primary.requests).slice(skipped))
    const toBackup = arrivals(yield* backup.requests)
    const outage = { from: sixth, to: sixth * 4 }
    const during = outcomes.filter(({ startedAt }) => startedAt >= outage.from * 1000 && startedAt < outage.to * 1000)
    const millis = during.map(({ millis }) => millis).toSorted((one, other) => one - other)
    return {
      system: running.system.name,
      seconds: Array.from({ length: seconds }, (_, second) => secondOf(outcomes, second)),
      outage,
      answeredShare: during.filter(({ _tag }) => _tag === "Success").length / during.length,
      p50Millis: quantile(millis, 0.5),
      p95Millis: quantile(millis, 0.95),
      p99Millis: quantile(millis, 0.99),
      worstMillis: quantile(millis, 1),
      callsToDead: toPrimary.filter((at) => at >= outage.from && at < outage.to).length,
      requestsPerCall: (toPrimary.length + toBackup.length) / outcomes.length,
      secondsToReturn: returned(toPrimary, toBackup, outage.to, seconds),
      unhandled: running.unhandled().length
    }
  }).pipe(Effect.scoped, Effect.provideService(Clock.Clock, Clock.Clock.defaultValue()))

const secondOf = (outcomes: ReadonlyArray<Outcome>, second: number): Second => {
  const started = outcomes.filter(({ startedAt }) => Math.floor(startedAt / 1000) === second)
  const answered = started.filter(({ _tag }) => _tag === "Success").length
  const millis = started.map(({ millis }) => millis).toSorted((one, other) => one - other)
  return { answered, failed: started.length - answered, p95Millis: quantile(millis, 0.95) }
}

const returned = (
  toPrimary: ReadonlyArray<number>,
  toBackup: ReadonlyArray<number>,
  from: number,
  until: number
): number | undefined => {
  const within = (arrivals: ReadonlyArray<number>, second: number) =>
    arrivals.filter((at) => at >= from + second && at < from + second + 1).length
  for (let second = 0; from + second < until; second++) {
    const primary = within(toPrimary, second)
    if (primary > 0 && primary >= 0.9 * (primary + within(toBackup, second))) return second
  }
  return undefined
}

/** Of sorted values. */
export const quantile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
