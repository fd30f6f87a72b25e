/**
 * The circuit as a pure machine: `(state, event, now) => [state, decision]`.
 *
 * `CircuitBreaker` holds this state in a `Ref`, reads the monotonic clock and publishes what changed; every rule about when a circuit
 * opens, lets a probe through and closes is here, so that a property test can hold it against a reference.
 *
 * **States**
 *
 * - `Closed`: calls pass and are counted. It opens when the trip policy says so, on whichever result completes the evidence. After probes
 *   have closed it, it may start slowly: a few calls at a time, one more with each success, so that a provider which has just come back is not
 *   buried under the load that waited for it (as TCP's slow start, RFC 5681). Who insists is let through all the same.
 * - `Open`: calls are rejected until `until`. The first call at or after it, and not one tick earlier, turns the circuit half-open.
 * - `HalfOpen`: at most `probes` calls pass, each on a lease. Their results close the circuit or open it again for the next, usually
 *   longer, time. A lease that runs out without a result counts as a failure, so a hung probe cannot wedge the circuit.
 * - `Isolated`: taken out by hand; nothing passes until `Reset` or until `until`.
 *
 * Every admission carries the generation of the state that gave it. A result that arrives after the circuit has moved on belongs to
 * the past and is dropped.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type { SkipReason } from "./Attempt.ts"

/**
 * When a closed circuit opens. All times in this module are milliseconds of monotonic time.
 *
 * **Details**
 *
 * `Consecutive` counts failures in a row: in the order in which calls ended, or in the order in which they were admitted. Under load the two
 * differ, because long answers from before an outage keep arriving between its failures. A success ends what was sent before it. `Rate` looks at a window, of the last `size` calls or of the last `millis` in `buckets`
 * parts that are forgotten one by one; once it holds `minimumCalls`, the circuit opens when the share of failures reaches
 * `failureRate`, or the share of calls that took `slowAfter` or longer reaches `slowRate`.
 *
 * @category models
 * @since 0.1.0
 */
export type Trip =
  | { readonly _tag: "Consecutive"; readonly failures: number }
  | {
      readonly _tag: "Rate"
      readonly window:
        | { readonly _tag: "Count"; readonly size: number }
        | { readonly _tag: "Time"; readonly millis: number; readonly buckets: number }
      readonly minimumCalls: number
      readonly failureRate: number
      readonly slowAfter: number
      readonly slowRate: number
    }

/**
 * The rules of one circuit.
 *
 * **Details**
 *
 * `openFor(n)` is how long the `n`-th opening in a row lasts. `maxOpenFor` caps what a provider's Retry-After can add. A half-open
 * circuit opens again as soon as failures make up `probeFailureRate` of all `probes`; zero means the first failure. `slowStart` is how long the
 * circuit starts slowly after a recovery, at most; zero means not at all.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly trip: Trip
  readonly openFor: (opening: number) => number
  readonly maxOpenFor: number
  readonly probes: number
  readonly probeLease: number
  readonly probeFailureRate: number
  readonly slowStart: number
}

/**
 * What a window has seen.
 *
 * @category models
 * @since 0.1.0
 */
export type Tally =
  | {
      readonly _tag: "Streak"
      readonly failed: number
      readonly runs: ReadonlyArray<Run>
      /** The number of the last sent call that succeeded: whatever failed and was sent before it belongs to the past. */
      readonly succeeded: number
    }
  | {
      readonly _tag: "Ring"
      readonly marks: ReadonlyArray<Mark>
      readonly next: number
      readonly failed: number
      readonly slow: number
    }
  | { readonly _tag: "Buckets"; readonly buckets: ReadonlyArray<Bucket> }

/** Calls admitted one after the other that all failed: the number of the first and of the last. */
type Run = readonly [first: number, last: number]

/** More gaps than this between the failures of calls admitted one after the other say that they are no run. */
const maxRuns = 8

interface Mark {
  readonly failed: boolean
  readonly slow: boolean
}

interface Bucket {
  readonly index: number
  readonly calls: number
  readonly failed: number
  readonly slow: number
}

/**
 * The state of a circuit.
 *
 * @category models
 * @since 0.1.0
 */
export type State =
  | {
      readonly _tag: "Closed"
      readonly generation: number
      readonly tally: Tally
      readonly ramp?: Ramp | undefined
    }
  | {
      readonly _tag: "Open"
      readonly generation: number
      readonly until: number
      readonly openings: number
      readonly openedAt: number
    }
  | {
      readonly _tag: "HalfOpen"
      readonly generation: number
      readonly openings: number
      readonly openedAt: number
      readonly leases: ReadonlyArray<{ readonly id: number; readonly until: number }>
      readonly nextLease: number
      readonly calls: number
      readonly failed: number
      readonly slow: number
    }
  | { readonly _tag: "Isolated"; readonly generation: number; readonly until: number; readonly because: string }

/**
 * A slow start under way: how many calls may be in flight, how many are, and when it ends at the latest.
 *
 * @category models
 * @since 0.1.0
 */
export interface Ramp {
  readonly limit: number
  readonly inFlight: number
  readonly until: number
}

/**
 * Proof that a call was admitted: as which call in order of admission, by which generation of the circuit, on which lease if it is a probe,
 * and whether it is one of the calls of a slow start.
 *
 * @category models
 * @since 0.1.0
 */
export interface Admission {
  readonly number: number
  readonly generation: number
  readonly lease: number | undefined
  readonly ramped: boolean
}

/**
 * How urgent a call is; an `LlmRequest` says it. With `lastResort` an open circuit gives it a probe before its time, with `insists` a slow start
 * lets it through.
 *
 * @category models
 * @since 0.1.0
 */
export interface Urgency {
  readonly lastResort: boolean
  readonly insists: boolean
}

/**
 * What can happen to a circuit.
 *
 * **Details**
 *
 * - `Admit`: a call asks to pass; `number` counts those who did.
 * - `Record`: an admitted call ended. `ignored` only gives the lease back.
 * - `Began`: an admitted call of a slow start has shown its first content. It gives its place back, and counts when it ends.
 * - `Isolate`, `Reset`, `HalfOpen`: an operator or a health check acts. `Hold`: a health check failed, so an open circuit stays open for at least
 *   this long, and a half-open one without probes is open again, and no caller has to find out. After `maxOpenFor` one has to all the same: the
 *   check itself may be wrong.
 *
 * @category models
 * @since 0.1.0
 */
export type Event =
  | ({ readonly _tag: "Admit"; readonly number: number } & Urgency)
  | {
      readonly _tag: "Record"
      readonly admission: Admission
      readonly verdict: "success" | "failure" | "ignored"
      readonly duration: number
      readonly retryAfter: number
    }
  | { readonly _tag: "Began"; readonly admission: Admission }
  | { readonly _tag: "Isolate"; readonly because: string; readonly duration: number }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "HalfOpen" }
  | { readonly _tag: "Hold"; readonly duration: number }

/**
 * The machine's answer to an event.
 *
 * **Details**
 *
 * `Dropped` answers a result of an earlier generation. `Illegal` answers a manual step that the state does not allow.
 *
 * @category models
 * @since 0.1.0
 */
export type Decision =
  | { readonly _tag: "Admitted"; readonly admission: Admission }
  | { readonly _tag: "Rejected"; readonly reason: SkipReason }
  | { readonly _tag: "Done" }
  | { readonly _tag: "Dropped" }
  | { readonly _tag: "Illegal" }

const done: Decision = { _tag: "Done" }
const dropped: Decision = { _tag: "Dropped" }
const illegal: Decision = { _tag: "Illegal" }

/**
 * Returns the state of a new circuit: closed, having seen nothing.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initial = (settings: Settings): State => closed(settings, 0)

const closed = (settings: Settings, generation: number): Extract<State, { readonly _tag: "Closed" }> => ({
  _tag: "Closed",
  generation,
  tally: emptyTally(settings.trip)
})

const emptyTally = (trip: Trip): Tally =>
  trip._tag === "Consecutive"
    ? { _tag: "Streak", failed: 0, runs: [], succeeded: -1 }
    : trip.window._tag === "Count"
      ? { _tag: "Ring", marks: [], next: 0, failed: 0, slow: 0 }
      : { _tag: "Buckets", buckets: [] }

/**
 * Applies an event.
 *
 * @category combinators
 * @since 0.1.0
 */
export const step = (settings: Settings, state: State, event: Event, now: number): readonly [State, Decision] => {
  const current = settle(settings, state, now)
  switch (event._tag) {
    case "Admit":
      return admit(settings, current, event, event.number, now)
    case "Record":
      return record(settings, current, event, now)
    case "Began":
      return current._tag === "Closed" &&
        current.ramp !== undefined &&
        event.admission.generation === current.generation
        ? [{ ...current, ramp: ramped(current.ramp, "success") }, done]
        : [current, dropped]
    case "Isolate":
      return [
        { _tag: "Isolated", generation: current.generation + 1, until: now + event.duration, because: event.because },
        done
      ]
    case "Reset":
      return [closed(settings, current.generation + 1), done]
    case "HalfOpen":
      return current._tag === "Open" ? [halfOpen(current), done] : [current, illegal]
    case "Hold":
      return [held(settings, current, event.duration, now), done]
  }
}

/**
 * Returns why the circuit would reject a call now, or `undefined` when it would admit it. Changes nothing.
 *
 * @category accessors
 * @since 0.1.0
 */
export const peek = (settings: Settings, state: State, urgency: Urgency, now: number): SkipReason | undefined => {
  if (state._tag === "Closed" && state.ramp === undefined) return undefined
  const decision = admit(settings, settle(settings, state, now), urgency, 0, now)[1]
  return decision._tag === "Rejected" ? decision.reason : undefined
}

/**
 * Returns what time alone makes of a state: isolation and slow start end, and a probe whose lease ran out opens the circuit again.
 *
 * @category combinators
 * @since 0.1.0
 */
export const settle = (settings: Settings, state: State, now: number): State => {
  if (state._tag === "Isolated" && now >= state.until) return closed(settings, state.generation + 1)
  if (state._tag === "Closed" && state.ramp !== undefined && now >= state.ramp.until)
    return { ...state, ramp: undefined }
  if (state._tag === "HalfOpen") {
    const expired = state.leases.find((lease) => lease.until <= now)
    if (expired !== undefined) return open(settings, state.generation, state.openings + 1, expired.until, 0)
  }
  return state
}

const admit = (
  settings: Settings,
  state: State,
  urgency: Urgency,
  number: number,
  now: number
): readonly [State, Decision] => {
  switch (state._tag) {
    case "Closed": {
      const { generation, ramp } = state
      if (ramp === undefined)
        return [state, { _tag: "Admitted", admission: { number, generation, lease: undefined, ramped: false } }]
      return ramp.inFlight < ramp.limit || urgency.insists || urgency.lastResort
        ? [
            { ...state, ramp: { ...ramp, inFlight: ramp.inFlight + 1 } },
            { _tag: "Admitted", admission: { number, generation, lease: undefined, ramped: true } }
          ]
        : [state, rejected({ _tag: "Recovering" })]
    }
    case "Open":
      return now >= state.until || urgency.lastResort
        ? admit(settings, halfOpen(state), urgency, number, now)
        : [state, rejected({ _tag: "CircuitOpen", retryAfter: Duration.millis(state.until - now) })]
    case "HalfOpen":
      return state.leases.length + state.calls < settings.probes
        ? [
            {
              ...state,
              leases: [...state.leases, { id: state.nextLease, until: now + settings.probeLease }],
              nextLease: state.nextLease + 1
            },
            {
              _tag: "Admitted",
              admission: { number, generation: state.generation, lease: state.nextLease, ramped: false }
            }
          ]
        : [state, rejected({ _tag: "ProbeRunning" })]
    case "Isolated":
      return [
        state,
        rejected({
          _tag: "Isolated",
          because: state.because,
          ...(Number.isFinite(state.until) ? { retryAfter: Duration.millis(state.until - now) } : {})
        })
      ]
  }
}

const rejected = (reason: SkipReason): Decision => ({ _tag: "Rejected", reason })

const halfOpen = (state: Extract<State, { readonly _tag: "Open" }>): State => ({
  _tag: "HalfOpen",
  generation: state.generation + 1,
  openings: state.openings,
  openedAt: state.openedAt,
  leases: [],
  nextLease: 0,
  calls: 0,
  failed: 0,
  slow: 0
})

const held = (settings: Settings, state: State, duration: number, now: number): State => {
  if (
    state._tag === "HalfOpen" &&
    state.leases.length === 0 &&
    state.calls === 0 &&
    now < state.openedAt + settings.maxOpenFor
  ) {
    const { generation, openedAt, openings } = state
    return { _tag: "Open", generation: generation + 1, openings, openedAt, until: now + duration }
  }
  if (state._tag !== "Open") return state
  return { ...state, until: Math.max(state.until, Math.min(now + duration, state.openedAt + settings.maxOpenFor)) }
}

const open = (settings: Settings, generation: number, openings: number, now: number, retryAfter: number): State => ({
  _tag: "Open",
  generation: generation + 1,
  openings,
  openedAt: now,
  until: now + Math.max(settings.openFor(openings), Math.min(retryAfter, settings.maxOpenFor))
})

const record = (
  settings: Settings,
  state: State,
  event: Extract<Event, { readonly _tag: "Record" }>,
  now: number
): readonly [State, Decision] => {
  if (event.admission.generation !== state.generation) return [state, dropped]
  const failed = event.verdict === "failure"
  const slow = settings.trip._tag === "Rate" && event.duration >= settings.trip.slowAfter
  if (state._tag === "HalfOpen") {
    const leases = state.leases.filter((lease) => lease.id !== event.admission.lease)
    if (leases.length === state.leases.length) return [state, dropped]
    if (event.verdict === "ignored") return [{ ...state, leases }, done]
    const next = {
      ...state,
      leases,
      calls: state.calls + 1,
      failed: state.failed + (failed ? 1 : 0),
      slow: state.slow + (slow ? 1 : 0)
    }
    const tooSlow = settings.trip._tag === "Rate" && reached(next.slow, settings.probes, settings.trip.slowRate)
    if (reached(next.failed, settings.probes, settings.probeFailureRate) || tooSlow) {
      return [open(settings, state.generation, state.openings + 1, now, event.retryAfter), done]
    }
    return [next.calls >= settings.probes ? recovered(settings, state.generation + 1, now) : next, done]
  }
  if (state._tag !== "Closed") return [state, done]
  const ramp = state.ramp !== undefined && event.admission.ramped ? ramped(state.ramp, event.verdict) : state.ramp
  if (event.verdict === "ignored") return [ramp === state.ramp ? state : { ...state, ramp }, done]
  const tally = count(settings.trip, state.tally, event.admission.number, failed, slow, now)
  return [
    trips(settings.trip, tally)
      ? open(settings, state.generation, 1, now, event.retryAfter)
      : tally === state.tally && ramp === state.ramp
        ? state
        : { ...state, tally, ramp },
    done
  ]
}

const recovered = (settings: Settings, generation: number, now: number): State => ({
  ...closed(settings, generation),
  ...(settings.slowStart > 0 ? { ramp: { limit: 2, inFlight: 0, until: now + settings.slowStart } } : {})
})

// One more for each success doubles the limit with each round of calls.
const ramped = (ramp: Ramp, verdict: "success" | "failure" | "ignored"): Ramp => ({
  ...ramp,
  inFlight: ramp.inFlight - 1,
  limit:
    verdict === "success"
      ? ramp.limit + 1
      : verdict === "failure"
        ? Math.max(1, Math.floor(ramp.limit / 2))
        : ramp.limit
})

const reached = (count: number, total: number, rate: number): boolean => count > 0 && count / total >= rate

const count = (trip: Trip, tally: Tally, number: number, failed: boolean, slow: boolean, now: number): Tally => {
  switch (tally._tag) {
    case "Streak":
      return failed
        ? {
            ...tally,
            failed: tally.failed + 1,
            runs: number > tally.succeeded ? joined(tally.runs, number) : tally.runs
          }
        : {
            _tag: "Streak",
            failed: 0,
            runs: tally.runs.length === 0 ? tally.runs : tally.runs.filter(([, last]) => last > number),
            succeeded: Math.max(tally.succeeded, number)
          }
    case "Ring": {
      const size = trip._tag === "Rate" && trip.window._tag === "Count" ? trip.window.size : 1
      const forgotten = tally.marks[tally.next]
      return {
        _tag: "Ring",
        marks:
          tally.marks.length < size
            ? [...tally.marks, { failed, slow }]
            : tally.marks.with(tally.next, { failed, slow }),
        next: (tally.next + 1) % size,
        failed: tally.failed + Number(failed) - Number(forgotten?.failed ?? false),
        slow: tally.slow + Number(slow) - Number(forgotten?.slow ?? false)
      }
    }
    case "Buckets": {
      if (trip._tag !== "Rate" || trip.window._tag !== "Time") return tally
      const index = Math.floor(now / (trip.window.millis / trip.window.buckets))
      const oldest = index - trip.window.buckets
      const kept = tally.buckets.filter((bucket) => bucket.index > oldest && bucket.index !== index)
      const current = tally.buckets.find((bucket) => bucket.index === index)
      return {
        _tag: "Buckets",
        buckets: [
          ...kept,
          {
            index,
            calls: (current?.calls ?? 0) + 1,
            failed: (current?.failed ?? 0) + Number(failed),
            slow: (current?.slow ?? 0) + Number(slow)
          }
        ]
      }
    }
  }
}

const joined = (runs: ReadonlyArray<Run>, number: number): ReadonlyArray<Run> => {
  let [first, last] = [number, number]
  const apart = runs.filter(([from, to]) => {
    if (to === number - 1) first = from
    else if (from === number + 1) last = to
    else return true
    return false
  })
  return [...apart, [first, last] as const].slice(-maxRuns)
}

const trips = (trip: Trip, tally: Tally): boolean => {
  if (trip._tag === "Consecutive") {
    return tally._tag === "Streak" && (tally.failed >= trip.failures || longest(tally.runs) >= trip.failures)
  }
  const seen = totals(tally)
  return (
    seen.calls >= trip.minimumCalls &&
    (reached(seen.failed, seen.calls, trip.failureRate) || reached(seen.slow, seen.calls, trip.slowRate))
  )
}

const longest = (runs: ReadonlyArray<Run>): number =>
  runs.reduce((most, [first, last]) => Math.max(most, last - first + 1), 0)

/**
 * Returns what a window holds: calls, failures and slow calls. A streak counts its failures only.
 *
 * @category accessors
 * @since 0.1.0
 */
export const totals = (tally: Tally): { readonly calls: number; readonly failed: number; readonly slow: number } => {
  switch (tally._tag) {
    case "Streak":
      return { calls: tally.failed, failed: tally.failed, slow: 0 }
    case "Ring":
      return { calls: tally.marks.length, failed: tally.failed, slow: tally.slow }
    case "Buckets":
      return tally.buckets.reduce(
        (sum, bucket) => ({
          calls: sum.calls + bucket.calls,
          failed: sum.failed + bucket.failed,
          slow: sum.slow + bucket.slow
        }),
        { calls: 0, failed: 0, slow: 0 }
      )
  }
}

/**
 * A state that can outlive its process, as JSON too: times are what is left of them. `at` is when the snapshot was taken, on the clock by which the
 * window is counted. An isolation without an end has nothing `remaining`.
 *
 * @category models
 * @since 0.1.0
 */
export type Snapshot =
  | { readonly _tag: "Closed"; readonly tally: Tally; readonly at: number }
  | { readonly _tag: "Open"; readonly remaining: number; readonly openings: number }
  | { readonly _tag: "Isolated"; readonly remaining?: number | undefined; readonly because: string }

/**
 * Takes a snapshot. A half-open circuit is kept as open with no time left, because its probes do not survive.
 *
 * @category conversions
 * @since 0.1.0
 */
export const snapshot = (state: State, now: number): Snapshot => {
  switch (state._tag) {
    case "Closed":
      // The calls of another process are numbered anew.
      return {
        _tag: "Closed",
        tally: state.tally._tag === "Streak" ? { ...state.tally, runs: [], succeeded: -1 } : state.tally,
        at: now
      }
    case "Open":
      return { _tag: "Open", remaining: Math.max(0, state.until - now), openings: state.openings }
    case "HalfOpen":
      return { _tag: "Open", remaining: 0, openings: state.openings }
    case "Isolated":
      return {
        _tag: "Isolated",
        because: state.because,
        ...(state.until === Infinity ? {} : { remaining: Math.max(0, state.until - now) })
      }
  }
}

/**
 * Restores a state from a snapshot. Counts of a window that the trip policy no longer uses are forgotten, and so are the oldest of one that is
 * smaller now.
 *
 * @category conversions
 * @since 0.1.0
 */
export const restore = (settings: Settings, kept: Snapshot, now: number): State => {
  switch (kept._tag) {
    case "Closed":
      return { _tag: "Closed", generation: 0, tally: adopted(settings.trip, kept, now) }
    case "Open":
      return { _tag: "Open", generation: 0, until: now + kept.remaining, openings: kept.openings, openedAt: now }
    case "Isolated":
      return { _tag: "Isolated", generation: 0, until: now + (kept.remaining ?? Infinity), because: kept.because }
  }
}

const adopted = (trip: Trip, { at, tally }: Extract<Snapshot, { readonly _tag: "Closed" }>, now: number): Tally => {
  const empty = emptyTally(trip)
  if (tally._tag !== empty._tag) return empty
  if (tally._tag === "Ring" && trip._tag === "Rate" && trip.window._tag === "Count") {
    const oldestFirst = [...tally.marks.slice(tally.next), ...tally.marks.slice(0, tally.next)]
    return oldestFirst
      .slice(-trip.window.size)
      .reduce((tally, { failed, slow }) => count(trip, tally, 0, failed, slow, now), empty)
  }
  if (tally._tag === "Buckets" && trip._tag === "Rate" && trip.window._tag === "Time") {
    const { buckets, millis } = trip.window
    // The clock of this process began at another moment.
    const indexOf = (time: number): number => Math.floor(time / (millis / buckets))
    const newest = indexOf(at)
    return {
      _tag: "Buckets",
      buckets: tally.buckets
        .filter((bucket) => bucket.index <= newest && bucket.index > newest - buckets)
        .map((bucket) => ({ ...bucket, index: bucket.index - newest + indexOf(now) }))
    }
  }
  return tally
}
