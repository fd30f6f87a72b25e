import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import * as Formatter from "effect/Formatter"
import * as Option from "effect/Option"
import type { Model, Scenario } from "../Forecast.ts"
import { dice } from "./dice.ts"

/** A scenario that can be run: nothing in it is nonsense, everything has its default, and times are milliseconds. */
export interface Checked {
  readonly models: Arr.NonEmptyReadonlyArray<CheckedModel>
  readonly days: number
  /** When the traffic ends. */
  readonly until: number
  /** When each request comes, one call after the other. */
  readonly arrivals: () => number
  readonly deadline: number
}

export interface CheckedModel {
  readonly id: string
  readonly latency: Spread
  readonly errors: ReadonlyArray<readonly [ProviderError.Kind, number]>
  readonly outages: (Spread & { readonly between: number; readonly as: ProviderError.Kind | "Hang" }) | undefined
  readonly usdPerCall: number
}

interface Spread {
  readonly median: number
  readonly p99: number
}

export const day = 86_400_000

const longest = 3660
const mostRequests = 100_000_000
const mostOutages = 10_000
const kinds: ReadonlyArray<string> = ["Timeout", "RateLimited", ...ProviderError.Reason.literals]

/** Reads a scenario, whatever it is: a forecast answers nonsense with as much confidence as anything else. */
export const check = (where: string, scenario: Scenario, seed: number): Checked => {
  const refuse = (path: string, expected: string, got: unknown): never => {
    throw new RangeError(`${where}: ${path} must be ${expected}, got ${Formatter.format(got)}`)
  }
  const number = (path: string, value: unknown, expected: string, holds: (value: number) => boolean): number =>
    typeof value === "number" && holds(value) ? value : refuse(path, expected, value)
  const millis = (path: string, input: Duration.Input): number => {
    const length = Option.match(Duration.fromInput(input), { onNone: () => NaN, onSome: Duration.toMillis })
    return length > 0 && length < Infinity
      ? length
      : refuse(path, 'longer than zero and not for ever, such as "2 seconds"', input)
  }
  const spread = (path: string, median: Duration.Input, p99: Duration.Input): Spread => {
    const read = { median: millis(`${path}.median`, median), p99: millis(`${path}.p99`, p99) }
    return read.p99 < read.median
      ? refuse(`${path}.p99`, `at least the median, which is ${Formatter.format(median)}`, p99)
      : read
  }

  const errorsOf = (path: string, errors: NonNullable<Model["errors"]>): CheckedModel["errors"] => {
    const rates = Object.entries(errors) as ReadonlyArray<[ProviderError.Kind, number | undefined]>
    const read = rates.map(([kind, rate]) => {
      if (!kinds.includes(kind)) refuse(`each key of ${path}`, `one of ${kinds.join(", ")}`, kind)
      return [kind, number(`${path}.${kind}`, rate ?? 0, "in [0, 1]", (rate) => rate >= 0 && rate <= 1)] as const
    })
    // With room for what ten rates of 0.1 sum up to.
    number(`the sum of ${path}`, sumOf(read.map(([, rate]) => rate)), "at most 1", (sum) => sum < 1 + 1e-9)
    return read.filter(([, rate]) => rate > 0)
  }
  const outagesOf = (path: string, outages: NonNullable<Model["outages"]>): CheckedModel["outages"] => {
    const perMonth = number(
      `${path}.perMonth`,
      outages.perMonth,
      `in [0, ${mostOutages}]`,
      (perMonth) => perMonth >= 0 && perMonth <= mostOutages
    )
    const { as = "ServerError", median = "10 minutes" } = outages
    // As ten minutes and two hours are.
    const length = spread(path, median, outages.p99 ?? 12 * millis(`${path}.median`, median))
    if (as !== "Hang" && !kinds.includes(as)) refuse(`${path}.as`, `one of Hang, ${kinds.join(", ")}`, as)
    return perMonth === 0 ? undefined : { ...length, between: (30 * day) / perMonth, as }
  }
  const modelOf = (model: Model, index: number): CheckedModel => {
    const path = `models[${index}]`
    const { errors, id, latency, outages, usdPerCall = 0 } = isRecord(model) ? model : refuse(path, "a model", model)
    if (typeof id !== "string" || id === "") refuse(`${path}.id`, "a name that is not empty", id)
    const first = scenario.models.findIndex((other) => other.id === id)
    if (first !== index) refuse(`${path}.id`, `another one than that of models[${first}]`, id)
    if (!isRecord(latency)) refuse(`${path}.latency`, "a median and a p99", latency)
    return {
      id,
      latency: spread(`${path}.latency`, latency.median, latency.p99),
      errors: errorsOf(`${path}.errors`, errors ?? {}),
      outages: outages === undefined ? undefined : outagesOf(`${path}.outages`, outages),
      usdPerCall: number(`${path}.usdPerCall`, usdPerCall, "a number >= 0", (usd) => usd >= 0 && usd < Infinity)
    }
  }

  number("seed", seed, "an integer", Number.isSafeInteger)
  if (!Array.isArray(scenario.models) || scenario.models.length === 0) {
    refuse("models", "at least one model", scenario.models)
  }
  const { days = 30, deadline = "30 seconds", perSecond = 1 } = scenario
  number("days", days, `in (0, ${longest}]`, (days) => days > 0 && days <= longest)
  number("perSecond", perSecond, "in (0, 1000]", (perSecond) => perSecond > 0 && perSecond <= 1000)
  number(
    "days * 86400 * perSecond",
    days * 86_400 * perSecond,
    `at most ${mostRequests} requests; take fewer days, or fewer a second`,
    (requests) => requests <= mostRequests
  )
  const arrivalsOf = (): (() => number) => {
    const d = dice(seed, 700)
    let at = 0
    return () => (at += d.exponential(1000 / perSecond))
  }
  const until = days * day
  if (arrivalsOf()() >= until) {
    throw new RangeError(
      `${where}: not one request comes in ${days} days at ${perSecond} a second; take more days, or more a second`
    )
  }
  return {
    models: Arr.map(scenario.models, (model, index) => modelOf(model, index)),
    days,
    until,
    arrivals: arrivalsOf(),
    deadline: millis("deadline", deadline)
  }
}

const isRecord = (value: unknown): boolean => typeof value === "object" && value !== null

const sumOf = (numbers: ReadonlyArray<number>): number => numbers.reduce((sum, number) => sum + number, 0)
