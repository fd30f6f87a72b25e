/**
 * Searches for the moment that breaks the chain: the code of production, on a clock and a scheduler of its own, with everything drawn from
 * one seed.
 *
 * A seed draws the models and their faults, the policies around them, the traffic, who leaves and when, operators, clocks that are set,
 * processes that share what is elsewhere and are killed, and the order of what happens at the same time. First there are faults; then everything heals, and all has to be as on the first day.
 * At every event the run is compared with simple reference models, see {@link invariants}.
 *
 * The same seed is the same run, in every process. One that fails prints its seed, what it did, its last events, and a smaller run
 * that fails in the same way.
 *
 * **When to use**
 *
 * Use to hold a change of the policies against thousands of runs. What your own chain will do in your own traffic is a question for
 * `Forecast`, and what it does in an incident for `Drill`.
 *
 * @since 0.1.0
 */
import { draw } from "./internal/simulation/drawing.ts"
import type { Violation } from "./internal/simulation/live.ts"
import type * as Plans from "./internal/simulation/plan.ts"
import * as Runs from "./internal/simulation/run.ts"
import { smaller } from "./internal/simulation/smaller.ts"

/**
 * Everything that one run does, as plain data.
 *
 * @category models
 * @since 0.1.0
 */
export type Plan = Plans.Plan

/**
 * What became of a run.
 *
 * **Details**
 *
 * `violation` says what did not hold, if anything. `fingerprint` is the same whenever the plan is the same. `requests` is how many were
 * made, and `counts` what became of them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Run {
  readonly plan: Plan
  readonly violation: Violation | undefined
  readonly fingerprint: string
  readonly lastEvents: ReadonlyArray<string>
  readonly requests: number
  readonly virtualMillis: number
  readonly counts: {
    readonly answered: number
    readonly failed: number
    readonly left: number
    readonly cached: number
    readonly similar: number
    readonly calls: number
    readonly opened: number
    readonly deferred: number
    readonly json: number
    readonly toolCalls: number
    readonly requeued: number
    readonly limited: number
    readonly killed: number
    readonly shutDown: number
  }
}

/**
 * Returns what the run of a seed does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const plan = (seed: number): Plan => draw(checked(seed))

const checked = (seed: number): number => {
  if (Number.isSafeInteger(seed)) return seed
  throw new RangeError(`Simulation: a seed must be an integer, got ${seed}`)
}

/**
 * Runs a seed, or a plan that was changed by hand.
 *
 * **Example** (The same seed, the same run)
 *
 * ```ts import.meta.vitest
 * import { Simulation } from "@llm-resilience/testing"
 *
 * const first = Simulation.run(7)
 * const second = Simulation.run(7)
 *
 * first.violation // => undefined
 * first.fingerprint === second.fingerprint // => true
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run = (seed: number | Plan, options?: { readonly keptEvents?: number | undefined }): Run =>
  Runs.run(typeof seed === "number" ? plan(seed) : seed, options?.keptEvents)

/**
 * Makes a failing run smaller: fewer requests, fewer steps, fewer kinds of trouble, as long as the same invariant is violated.
 *
 * **Details**
 *
 * At most `attempts` smaller runs are tried, 400 by default.
 *
 * @category running
 * @since 0.1.0
 */
export const shrink = (failing: Run, options?: { readonly attempts?: number | undefined }): Run => {
  let left = options?.attempts ?? 400
  let smallest = failing
  for (let found = true; found && left > 0;) {
    found = false
    for (const candidate of smaller(smallest.plan)) {
      if (left-- <= 0) break
      const run = Runs.run(candidate)
      if (run.violation?.invariant !== failing.violation?.invariant) continue
      smallest = run
      found = true
      break
    }
  }
  return smallest
}

/**
 * Runs seeds one after another until one fails, and returns that one, with the figures of all.
 *
 * **Details**
 *
 * `change` makes another plan of that of each seed: more streams, slower cleanup, whatever is suspected.
 *
 * @category running
 * @since 0.1.0
 */
export const explore = (options: {
  readonly from?: number | undefined
  readonly seeds: number
  readonly change?: ((plan: Plan) => Plan) | undefined
  readonly onRun?: ((run: Run) => void) | undefined
}): { readonly failed: Run | undefined; readonly seeds: number; readonly requests: number } => {
  const from = checked(options.from ?? 0)
  if (!Number.isSafeInteger(options.seeds) || options.seeds < 1) {
    throw new RangeError(`Simulation.explore: seeds must be an integer >= 1, got ${options.seeds}`)
  }
  let requests = 0
  for (let seed = from; seed < from + options.seeds; seed++) {
    const found = run(options.change === undefined ? seed : options.change(plan(seed)))
    requests += found.requests
    options.onRun?.(found)
    if (found.violation !== undefined) return { failed: found, seeds: seed - from + 1, requests }
  }
  return { failed: undefined, seeds: options.seeds, requests }
}

/**
 * Says what failed and how to see it again.
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (failed: Run, smallest: Run = failed): string => {
  const { violation } = failed
  if (violation === undefined) return `seed ${failed.plan.seed}: nothing failed`
  const { requests, ...rest } = smallest.plan
  return [
    `seed ${failed.plan.seed}: ${violation.invariant}`,
    `  ${violation.detail}, at ${(violation.at / 1000).toFixed(3)} s`,
    "",
    `the smallest run that fails like this: ${requests.length} of ${failed.plan.requests.length} requests, ${smallest.plan.steps.length} steps`,
    `  ${smallest.violation?.detail ?? ""}`,
    ...smallest.lastEvents.map((line) => `  ${line}`),
    "",
    `its plan: ${JSON.stringify({ ...rest, requests })}`,
    `see it again: npm run simulate -- --seed ${failed.plan.seed}`
  ].join("\n")
}

/**
 * What has to hold in every run.
 *
 * **Details**
 *
 * Everything but the lines marked with (1) is checked in runs with preemption, too. (1) compares with a reference model step by step.
 *
 * @category constants
 * @since 0.1.0
 */
export const invariants: ReadonlyArray<string> = [
  "one answer or one error for each request, and none is interrupted by anybody but its caller",
  "everything ends: no deadlock, no livelock, no request that waits for ever",
  "a deadline is kept, by answers, errors and parts of streams, and every call of a model knows it",
  "nothing is called and nothing goes on after a request has ended",
  "no call while a circuit is open or isolated, probes within their limit, and the breaker does what its rules say (1)",
  "no call while a provider rests, and of two rests the longer one counts (1)",
  "nobody is skipped without reason (1)",
  "attempts within the limit, no retry of what must not be retried, Retry-After waited out, and no wait beyond cap and deadline",
  "an error that is the same everywhere ends the walk; any other one falls over",
  "nothing after the first content is repeated, nothing is missing, and a cut answer is never a shorter success",
  "a stream says who serves it first, and ends once",
  "an answer is the answer to its question, for its scope and its tools, also from the cache; what expired is not served",
  "a stored question is as close as it has to be: the same one for tools and JSON, and never that of another scope",
  "an answer in JSON has the shape that was asked for; a call of a tool is whole, made once, and not served again",
  "a ticket of the deferred queue ends in exactly one way, which everybody is told; the queue is within its bound, and empty when all is well",
  "what waits is asked for within its life, its attempts and its pace, and not while everybody refuses; the same key gives the same ticket (1)",
  "what died in the queue and is queued again has a whole new life, and ends once more",
  "what a process is asked is taken over by others when it is killed, once its lease is over and not before",
  "processes together keep to a limit that they share, as long as its store works; what was taken and not used is given back",
  "a store of limits that fails lets calls pass, delays nobody longer than it may nor beyond the deadline, and is left alone for a while",
  "after a restart a breaker does what it would have done without one (1)",
  "whoever is named as the author wrote the answer, and every step is on the record of a failure",
  "after healing every breaker closes and every request is answered by the first step that may",
  "no clock, timer or random number of the host is used"
]
