/**
 * Alert rules, evaluated over what happened: whether somebody would have been told, and when.
 *
 * A rule looks at the requests that ended within its window, once a second, as a monitoring system does with its metrics. It fires when
 * the figure is above its limit, and there were enough requests to say so.
 *
 * @since 0.1.0
 */
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Duration from "effect/Duration"

/**
 * A rule.
 *
 * **Details**
 *
 * - `of`: the share of requests that a backup served (`fallbacks`), that failed (`failures`), or that the cache served (`cached`), or the number
 *   of circuits that are open (`openCircuits`).
 * - `above`: the limit that must be exceeded. `window`: how far it looks back, 30 s by default. `minimum`: how many requests it wants to have seen,
 *   5 by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Alert {
  readonly name: string
  readonly of: "fallbacks" | "failures" | "cached" | "openCircuits"
  readonly above: number
  readonly window?: Duration.Input | undefined
  readonly minimum?: number | undefined
}

/**
 * An event and when it happened, in milliseconds since the start.
 *
 * @category models
 * @since 0.1.0
 */
export interface Noted {
  readonly at: number
  readonly event: ResilienceEvent
}

/**
 * The rules that a chain should have: `fallback`, `failing`, `cached` and `circuit`.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaults: ReadonlyArray<Alert> = [
  { name: "fallback", of: "fallbacks", above: 0.05 },
  { name: "failing", of: "failures", above: 0.01 },
  { name: "cached", of: "cached", above: 0.05 },
  { name: "circuit", of: "openCircuits", above: 0, minimum: 0 }
]

/**
 * Returns when a rule fired, in milliseconds since the start: each time that it began to.
 *
 * **Example** (Firing once for one open circuit)
 *
 * ```ts import.meta.vitest
 * import { Alert } from "@llm-resilience/testing"
 *
 * const fired = Alert.fired({ name: "circuit", of: "openCircuits", above: 0, minimum: 0 }, [
 *   { at: 1500, event: { _tag: "CircuitChanged", provider: "a", from: "Closed", to: "Open" } },
 *   { at: 8200, event: { _tag: "CircuitChanged", provider: "a", from: "Open", to: "HalfOpen" } }
 * ], 10_000)
 *
 * fired // => [2000]
 * ```
 *
 * @category evaluation
 * @since 0.1.0
 */
export const fired = (alert: Alert, events: ReadonlyArray<Noted>, until: number): ReadonlyArray<number> => {
  const window = Duration.toMillis(alert.window ?? "30 seconds")
  const minimum = alert.minimum ?? 5
  const first = events.find(({ event }) => event._tag === "AttemptStarted")?.event
  const usual = first?._tag === "AttemptStarted" ? first.provider : undefined
  const starts: Array<number> = []
  const open = new Set<string>()
  const ended: Array<{ readonly at: number; readonly counts: boolean }> = []
  let next = 0
  let firing = false
  for (let now = second; now <= until; now += second) {
    for (; (events[next]?.at ?? Infinity) <= now; next++) {
      const noted = events[next]
      if (noted === undefined) break
      const { at, event } = noted
      if (event._tag === "CircuitChanged") {
        if (event.to === "Open") open.add(event.provider)
        else open.delete(event.provider)
      }
      const counts = countsFor(alert, event, usual)
      if (counts !== undefined) ended.push({ at, counts })
    }
    while ((ended[0]?.at ?? Infinity) <= now - window) ended.shift()
    const share = ended.length === 0 ? 0 : ended.filter(({ counts }) => counts).length / ended.length
    const figure = alert.of === "openCircuits" ? open.size : share
    const fires = ended.length >= minimum && figure > alert.above
    if (fires && !firing) starts.push(now)
    firing = fires
  }
  return starts
}

const second = 1000

// Whether an event is the end of a request, and whether that one counts.
const countsFor = ({ of }: Alert, event: ResilienceEvent, usual: string | undefined): boolean | undefined => {
  if (event._tag === "RequestFailed") return of === "failures"
  if (event._tag !== "RequestAnswered") return undefined
  const { from, provider } = event.served
  return of === "cached" ? from === "cache" : of === "fallbacks" && from === "provider" && provider !== usual
}
