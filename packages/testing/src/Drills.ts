/**
 * Six drills that are ready to use, as data. They name two providers, `primary` and `secondary`; `Drill.rename` gives them the ids of yours.
 *
 * `Drill.rehearse` meets them all. Two of them a plain standard chain meets as well; the others presuppose a setting, and say what
 * such a chain shows without it.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type { Drill } from "./Drill.ts"

const s = Duration.seconds

/**
 * The primary cannot be reached for fifty seconds.
 *
 * **Details**
 *
 * A standard chain meets it.
 *
 * @category drills
 * @since 0.1.0
 */
export const primaryOutage: Drill = {
  name: "primary outage",
  about: "The primary cannot be reached for fifty seconds, and comes back.",
  traffic: { every: Duration.millis(250), for: s(120) },
  steps: [
    { at: s(10), provider: "primary", fault: { error: "Network" } },
    { at: s(60), provider: "primary" }
  ],
  expectations: [
    { answered: 0.999 },
    { share: "secondary", atLeast: 0.95, after: s(15), until: s(55) },
    { alert: "fallback", within: s(30), of: s(10) },
    { alert: "circuit", within: s(10), of: s(10) },
    { metric: "FellBack", atLeast: 1 },
    { log: "primary failed: APIError Network" },
    { notice: "BackupService" },
    { latency: "p95", atMost: s(5) },
    { share: "primary", atLeast: 0.9, after: s(90) }
  ]
}

/**
 * Both providers limit the rate, the primary for longer than anybody should wait.
 *
 * **Details**
 *
 * Presupposes an emergency cache, or a third provider: while both rest, a standard chain of two loses two or three of a hundred requests.
 *
 * @category drills
 * @since 0.1.0
 */
export const rateLimitSurge: Drill = {
  name: "rate-limit surge",
  about: "The primary answers most calls with 429 and a long Retry-After; later the secondary limits some as well.",
  traffic: { every: Duration.millis(250), for: s(120) },
  steps: [
    { at: s(10), provider: "primary", fault: { error: "RateLimited", retryAfter: s(20) }, rate: 0.7 },
    { at: s(40), provider: "secondary", fault: { error: "RateLimited", retryAfter: s(1) }, rate: 0.1 },
    { at: s(60), provider: "primary" },
    { at: s(60), provider: "secondary" }
  ],
  expectations: [
    { answered: 0.999 },
    { log: "primary failed: RateLimited" },
    { metric: "CooledDown", atLeast: 1 },
    { alert: "fallback", within: s(30), of: s(10) },
    { latency: "p95", atMost: s(6) },
    { share: "primary", atLeast: 0.9, after: s(90) }
  ]
}

/**
 * The primary answers, but badly.
 *
 * **Details**
 *
 * A standard chain meets it.
 *
 * @category drills
 * @since 0.1.0
 */
export const qualityDegradation: Drill = {
  name: "quality degradation",
  about: "The primary first repeats itself and then says nothing, with status 200 and in good time.",
  traffic: { every: Duration.millis(250), for: s(90) },
  steps: [
    { at: s(10), provider: "primary", fault: { output: "looping" }, rate: 0.8 },
    { at: s(35), provider: "primary", fault: { output: "empty" }, rate: 0.8 },
    { at: s(60), provider: "primary" }
  ],
  expectations: [
    { answered: 0.999 },
    { log: "primary failed: APIError Loop" },
    { log: "primary failed: APIError EmptyOutput" },
    { alert: "fallback", within: s(30), of: s(10) },
    { notice: "BackupService" },
    { share: "primary", atLeast: 0.9, after: s(70) }
  ]
}

/**
 * The primary becomes slower and slower until it does not answer at all.
 *
 * **Details**
 *
 * Presupposes `timeouts: { attempt: "5 seconds" }`. With the 30 s of a standard chain each call waits for its share of the deadline instead:
 * nothing is lost, but p99 is 14 s, no attempt times out by itself, and the circuit opens only when the primary is silent.
 *
 * @category drills
 * @since 0.1.0
 */
export const slowDeath: Drill = {
  name: "slow death",
  about: "The primary takes longer and longer, until it accepts calls and never answers.",
  traffic: { every: Duration.millis(250), for: s(150) },
  steps: [
    { at: s(10), provider: "primary", fault: { latency: s(1) } },
    { at: s(30), provider: "primary", fault: { latency: s(4) } },
    { at: s(50), provider: "primary", fault: { hang: true } },
    { at: s(90), provider: "primary" }
  ],
  expectations: [
    { answered: 0.999 },
    { log: "primary failed: Timeout (attempt)" },
    { alert: "circuit", within: s(30), of: s(30) },
    { latency: "p99", atMost: s(10) },
    { share: "primary", atLeast: 0.9, after: s(130) }
  ]
}

/**
 * Nobody can be reached, and the cache has the answers of yesterday.
 *
 * **Details**
 *
 * Presupposes an emergency cache, and `circuitBreaker: { openFor: "10 seconds" }` so that the primary is back in time. A standard chain of two loses
 * every request of the outage, a quarter of all.
 *
 * @category drills
 * @since 0.1.0
 */
export const totalOutage: Drill = {
  name: "total outage",
  about: "Neither provider can be reached for half a minute; the emergency cache knows the questions.",
  traffic: { every: Duration.millis(250), for: s(120) },
  steps: [
    { at: s(20), provider: "primary", fault: { error: "Network" } },
    { at: s(20), provider: "secondary", fault: { error: "Overloaded" } },
    { at: s(50), provider: "primary" },
    { at: s(50), provider: "secondary" }
  ],
  expectations: [
    { answered: 0.99 },
    { share: "cache", atLeast: 0.9, after: s(25), until: s(50) },
    { notice: "Cached" },
    { metric: "CacheHit", atLeast: 50 },
    { alert: "cached", within: s(30), of: s(20) },
    { share: "primary", atLeast: 0.9, after: s(90) }
  ]
}

/**
 * The primary comes and goes.
 *
 * **Details**
 *
 * Presupposes `circuitBreaker: { openFor: "10 seconds" }`. With the 60 s of a standard chain no request is lost either, but the primary has three
 * quarters of the answers in the end and not nine of ten.
 *
 * @category drills
 * @since 0.1.0
 */
export const flapping: Drill = {
  name: "flapping",
  about: "The primary is gone for five of every ten seconds, for more than a minute.",
  traffic: { every: Duration.millis(250), for: s(150) },
  steps: [
    { at: s(10), provider: "primary", fault: { error: "ServerError" }, for: s(5), every: s(10) },
    { at: s(90), provider: "primary" }
  ],
  expectations: [
    { answered: 0.999 },
    { alert: "fallback", within: s(30), of: s(10) },
    { alert: "circuit", within: s(10), of: s(10) },
    { latency: "p95", atMost: s(5) },
    { share: "primary", atLeast: 0.9, after: s(125) }
  ]
}

/**
 * All of them, by the name that a command line uses.
 *
 * @category drills
 * @since 0.1.0
 */
export const all: { readonly [name: string]: Drill } = {
  "primary-outage": primaryOutage,
  "rate-limit-surge": rateLimitSurge,
  "quality-degradation": qualityDegradation,
  "slow-death": slowDeath,
  "total-outage": totalOutage,
  flapping
}
