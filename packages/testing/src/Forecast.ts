/**
 * Answers a planning question before anybody pays for it: with this chain, this traffic and providers that fail like this, what will users
 * see in a month?
 *
 * The chain is the real one, in virtual time. The weather (outages, errors, latencies) is drawn from a seed, and is the same for every
 * scenario of one seed, so that two scenarios differ by what was changed and not by luck.
 *
 * What goes in decides what comes out: take the rates and latencies from your own metrics, and the outages from the status pages of your
 * providers. A forecast has no correlation that you do not put in: two models at one provider fail together, and here they do not.
 *
 * @since 0.1.0
 */
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as Provider from "@llm-resilience/core/Provider"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { chart } from "./internal/chart.ts"
import { dice, type Dice, logNormal } from "./internal/dice.ts"
import { errorOf } from "./internal/errors.ts"
import { histogram } from "./internal/histogram.ts"
import { sealed } from "./internal/simulation/sealed.ts"
import * as VirtualTime from "./VirtualTime.ts"

/**
 * A provider, as a random process.
 *
 * **Details**
 *
 * - `latency`: median and 99th percentile of a whole answer.
 * - `errors`: the share of calls that fail with each kind of error on an ordinary day.
 * - `outages`: how many in a month of 30 days, how long (median and 99th percentile, 10 minutes and 2 hours by default), and what a call gets
 *   meanwhile: an error, or `Hang` for none at all (`ServerError` by default).
 * - `usdPerCall`: what an answered call costs, nothing by default. Calls that a hedge gave up are paid for as well.
 *
 * @category models
 * @since 0.1.0
 */
export interface Model {
  readonly id: string
  readonly latency: { readonly median: Duration.Input; readonly p99: Duration.Input }
  readonly errors?: { readonly [K in ProviderError.Kind]?: number } | undefined
  readonly outages?:
    | {
        readonly perMonth: number
        readonly median?: Duration.Input | undefined
        readonly p99?: Duration.Input | undefined
        readonly as?: ProviderError.Kind | "Hang" | undefined
      }
    | undefined
  readonly usdPerCall?: number | undefined
}

/**
 * What is to be forecast.
 *
 * **Details**
 *
 * - `models`: the steps of the chain, in order. `standard` and `chain`: the policies around each, and the chain, as in `LlmResilience`.
 * - `perSecond`: requests, 1 by default. `days`: 30 by default. `deadline`: of each request, 30 s by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Scenario {
  readonly models: Arr.NonEmptyReadonlyArray<Model>
  readonly standard?: LlmResilience.StandardOptions | undefined
  readonly chain?: LlmResilience.Options["fallback"]
  readonly perSecond?: number | undefined
  readonly days?: number | undefined
  readonly deadline?: Duration.Input | undefined
}

/**
 * What users will see.
 *
 * **Details**
 *
 * `availability` is the share of requests that were answered, `daily` the same for each day. Latencies are milliseconds, of answers. `shares` are the
 * shares of answers by provider, `calls` what each was asked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Outlook {
  readonly name: string
  readonly requests: number
  readonly availability: number
  readonly daily: ReadonlyArray<number>
  readonly latency: { readonly p50: number; readonly p95: number; readonly p99: number }
  readonly usd: number
  readonly shares: { readonly [provider: string]: number }
  readonly calls: { readonly [provider: string]: number }
}

/**
 * Forecasts one scenario.
 *
 * **Example** (What does a second provider change?)
 *
 * ```ts import.meta.vitest
 * import { Forecast } from "@llm-resilience/testing"
 *
 * const primary: Forecast.Model = {
 *   id: "primary",
 *   latency: { median: "1 second", p99: "6 seconds" },
 *   errors: { Overloaded: 0.01 },
 *   outages: { perMonth: 90, median: "10 minutes" }
 * }
 * const backup: Forecast.Model = { id: "backup", latency: { median: "2 seconds", p99: "9 seconds" } }
 *
 * const alone = Forecast.run({ models: [primary], days: 3, perSecond: 0.02 })
 * const together = Forecast.run({ models: [primary, backup], days: 3, perSecond: 0.02 })
 *
 * alone.availability < 0.995 // => true
 * together.availability > 0.9995 // => true
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run = (
  scenario: Scenario,
  options?: { readonly name?: string | undefined; readonly seed?: number | undefined }
): Outlook => {
  const seed = options?.seed ?? 1
  const days = scenario.days ?? 30
  const perSecond = scenario.perSecond ?? 1
  if (!(days > 0 && Number.isFinite(days))) throw new RangeError(`Forecast.run: days must be positive, got ${days}`)
  if (!(perSecond > 0 && perSecond <= 1000)) {
    throw new RangeError(`Forecast.run: perSecond must be in (0, 1000], got ${perSecond}`)
  }
  return sealed(dice(seed, 5), () => {
    const time = VirtualTime.make({ seed })
    const until = days * day
    const latencies = histogram()
    const asked = Array.from({ length: Math.ceil(days) }, () => ({ requests: 0, answered: 0 }))
    const served = new Map<string, number>()
    const models = scenario.models.map((model, index) => weather(model, time, dice(seed, 600, index), until))
    const arrivals = dice(seed, 700)
    const request = LlmRequest.make({ prompt: "?", deadline: scenario.deadline ?? "30 seconds", mayCache: false })

    const send = (service: LlmResilience.LlmResilience): void => {
      const at = time.now()
      const today = asked[Math.min(asked.length - 1, Math.floor(at / day))]
      time.fork(service.generate(request)).addObserver((exit) => {
        if (today === undefined) return
        today.requests++
        if (exit._tag !== "Success") return
        today.answered++
        latencies.add(time.now() - at)
        const { provider } = exit.value.served
        served.set(provider, (served.get(provider) ?? 0) + 1)
      })
    }
    const program = Effect.scoped(
      Effect.gen(function* () {
        const steps = Arr.map(scenario.models, (_, index) => ({
          // There are as many as models.
          provider: models[index]?.provider as Provider.Provider,
          policy: LlmResilience.standard(scenario.standard)
        }))
        const service = yield* LlmResilience.make({ steps, fallback: scenario.chain })
        yield* Effect.callback<void>((resume) => {
          const next = (at: number): void => {
            if (at >= until) {
              time.at(until + minute, () => resume(Effect.void))
              return
            }
            time.at(at, () => {
              next(at + arrivals.exponential(1000 / perSecond))
              send(service)
            })
          }
          next(arrivals.exponential(1000 / perSecond))
        })
      })
    )
    const ending = time.run(program)
    if (ending._tag !== "Ended" || ending.exit._tag === "Failure") {
      throw new Error(`Forecast.run: the run ended badly (${ending._tag})`)
    }
    const requests = asked.reduce((sum, { requests }) => sum + requests, 0)
    const answered = asked.reduce((sum, { answered }) => sum + answered, 0)
    return {
      name: options?.name ?? scenario.models.map(({ id }) => id).join(" -> "),
      requests,
      availability: answered / Math.max(1, requests),
      daily: asked.map(({ answered, requests }) => answered / Math.max(1, requests)),
      latency: { p50: latencies.at(0.5), p95: latencies.at(0.95), p99: latencies.at(0.99) },
      usd: models.reduce((sum, { usd }) => sum + usd(), 0),
      shares: Object.fromEntries(scenario.models.map(({ id }) => [id, (served.get(id) ?? 0) / Math.max(1, answered)])),
      calls: Object.fromEntries(models.map(({ calls, provider }) => [provider.id, calls()]))
    }
  })
}

const minute = 60_000
const day = 86_400_000

const weather = (
  model: Model,
  time: VirtualTime.VirtualTime,
  d: Dice,
  until: number
): { readonly provider: Provider.Provider; readonly usd: () => number; readonly calls: () => number } => {
  const latency = logNormal(Duration.toMillis(model.latency.median), Duration.toMillis(model.latency.p99))
  const errors = (Object.entries(model.errors ?? {}) as ReadonlyArray<[ProviderError.Kind, number]>).filter(
    ([, rate]) => rate > 0
  )
  const outages = outagesOf(model, d, until)
  const during = model.outages?.as ?? "ServerError"
  const weather = dice(d.int(0, 0x7fffffff))
  const content = LlmResponse.textContent("An answer.")
  let usd = 0
  let calls = 0
  let current = 0

  const isOut = (now: number): boolean => {
    while ((outages[current]?.to ?? Infinity) <= now) current++
    return (outages[current]?.from ?? Infinity) <= now
  }
  const kindOf = (): ProviderError.Kind | undefined => {
    let roll = weather.next()
    return errors.find(([, rate]) => (roll -= rate) < 0)?.[0]
  }
  const provider = Provider.make({
    id: model.id,
    model: model.id,
    generate: () =>
      Effect.callback((resume) => {
        calls++
        const millis = latency(weather)
        const ordinary = kindOf()
        const out = isOut(time.now())
        if (out && during === "Hang") return
        const kind = out && during !== "Hang" ? during : ordinary
        const failing = kind === undefined ? undefined : Effect.fail(errorOf(model.id, kind))
        if (failing === undefined) usd += model.usdPerCall ?? 0
        // Errors come back faster than answers.
        const cancel = time.at(time.now() + (failing === undefined ? millis : millis / 4), () =>
          resume(failing ?? Effect.succeed({ content }))
        )
        return Effect.sync(cancel)
      })
  })
  return { provider, usd: () => usd, calls: () => calls }
}

const outagesOf = (
  { outages }: Model,
  d: Dice,
  until: number
): ReadonlyArray<{ readonly from: number; readonly to: number }> => {
  if (outages === undefined || outages.perMonth <= 0) return []
  const length = logNormal(
    Duration.toMillis(outages.median ?? "10 minutes"),
    Duration.toMillis(outages.p99 ?? "2 hours")
  )
  const between = (30 * day) / outages.perMonth
  const found: Array<{ readonly from: number; readonly to: number }> = []
  for (let from = d.exponential(between); from < until;) {
    const to = from + length(d)
    found.push({ from, to })
    from = to + d.exponential(between)
  }
  return found
}

/**
 * Forecasts several scenarios in the same weather.
 *
 * @category running
 * @since 0.1.0
 */
export const compare = (
  scenarios: { readonly [name: string]: Scenario },
  options?: { readonly seed?: number | undefined }
): ReadonlyArray<Outlook> =>
  Object.entries(scenarios).map(([name, scenario]) => run(scenario, { name, seed: options?.seed }))

/**
 * Writes outlooks as a table in Markdown.
 *
 * @category formatting
 * @since 0.1.0
 */
export const toTable = (outlooks: ReadonlyArray<Outlook>): string => {
  const rows = outlooks.map(({ availability, latency, name, requests, shares, usd }) => [
    name,
    `${(Math.floor(availability * 1e5) / 1e3).toFixed(3)} %`,
    String(Math.round((1 - availability) * requests)),
    ...[latency.p50, latency.p95, latency.p99].map((millis) => `${(millis / 1000).toFixed(1)} s`),
    `$${usd.toFixed(0)}`,
    Object.entries(shares)
      .map(([id, share]) => `${id} ${(100 * share).toFixed(1)} %`)
      .join(", ")
  ])
  const head = ["scenario", "answered", "unanswered", "p50", "p95", "p99", "cost", "answered by"]
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: ReadonlyArray<string>) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n")
}

/**
 * Draws outlooks as an SVG: availability day by day, and the latencies.
 *
 * @category formatting
 * @since 0.1.0
 */
export const toSvg = (outlooks: ReadonlyArray<Outlook>): string => chart(outlooks)
