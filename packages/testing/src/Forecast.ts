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
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { chart } from "./internal/chart.ts"
import { dice, type Dice, logNormal } from "./internal/dice.ts"
import { errorOf } from "./internal/errors.ts"
import { histogram } from "./internal/histogram.ts"
import { check, type Checked, type CheckedModel, day } from "./internal/scenario.ts"
import { sealed } from "./internal/simulation/sealed.ts"
import * as VirtualTime from "./VirtualTime.ts"

/**
 * A provider, as a random process.
 *
 * **Details**
 *
 * - `id`: its name, another one for each model.
 * - `latency`: median and 99th percentile of a whole answer.
 * - `errors`: the share of calls that fail with each kind of error on an ordinary day; they sum up to 1 at most.
 * - `outages`: how many in a month of 30 days (10 000 at most; what is more frequent is a share of errors), how long (median and 99th percentile,
 *   10 minutes and twelve times the median by default), and what a call gets meanwhile: an error, or `Hang` for none at all (`ServerError` by
 *   default).
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
 * - `perSecond`: requests, 1 by default, 1000 at most. `days`: 30 by default, 3660 at most. Both together make 100 million requests at most.
 * - `deadline`: of each request, 30 s by default.
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
 * `availability` is the share of requests that were answered, `daily` the same for each day, and 1 for a day without any. Latencies are
 * milliseconds, of answers. `shares` are the shares of answers by provider, `calls` what each was asked.
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
 * **Details**
 *
 * The same `seed`, an integer, gives the same outlook; it is 1 by default.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the field, what was expected and what it got, for rates, lengths of time, prices and traffic that cannot be,
 * for a period without any request, and for options that a policy refuses (`cause` is what it said).
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
): Outlook => ready("Forecast.run", scenario, options)()

const ready = (
  where: string,
  scenario: Scenario,
  options?: { readonly name?: string | undefined; readonly seed?: number | undefined }
): (() => Outlook) => {
  const seed = options?.seed ?? 1
  const checked = check(where, scenario, seed)
  const nobody = Arr.map(checked.models, ({ id }) => Provider.make({ id, model: id, generate: () => Effect.never }))
  try {
    // Policies refuse their options when they are built.
    VirtualTime.make().runSync(Effect.scoped(chainOf(scenario, nobody)))
  } catch (cause) {
    throw new RangeError(`${where}: the chain cannot be built: ${(cause as Error).message}`, { cause })
  }
  const name = options?.name ?? checked.models.map(({ id }) => id).join(" -> ")
  return () => sealed(dice(seed, 5), () => ({ name, ...simulated(scenario, checked, seed) }))
}

const chainOf = (
  { chain, standard }: Scenario,
  providers: Arr.NonEmptyReadonlyArray<Provider.Provider>
): Effect.Effect<LlmResilience.LlmResilience, never, Scope.Scope> =>
  Effect.suspend(() => {
    const policy = LlmResilience.standard(standard)
    return LlmResilience.make({ steps: Arr.map(providers, (provider) => ({ provider, policy })), fallback: chain })
  })

const simulated = (
  scenario: Scenario,
  { arrivals, days, deadline, models: given, until }: Checked,
  seed: number
): Omit<Outlook, "name"> => {
  const time = VirtualTime.make({ seed })
  const latencies = histogram()
  const asked = Array.from({ length: Math.ceil(days) }, () => ({ requests: 0, answered: 0 }))
  const served = new Map<string, number>()
  const models = Arr.map(given, (model, index) => weather(model, time, dice(seed, 600, index), until))
  const request = LlmRequest.make({ prompt: "?", deadline, mayCache: false })

  const send = (service: LlmResilience.LlmResilience, done: () => void): void => {
    const at = time.now()
    const today = asked[Math.min(asked.length - 1, Math.floor(at / day))]
    time.fork(service.generate(request)).addObserver((exit) => {
      done()
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
      const service = yield* chainOf(
        scenario,
        Arr.map(models, ({ provider }) => provider)
      )
      yield* Effect.callback<void>((resume) => {
        // The traffic itself is one that is open, until its end.
        let open = 1
        const done = (): void => {
          if (--open === 0) resume(Effect.void)
        }
        const next = (at: number): void => {
          if (at >= until) return done()
          time.at(at, () => {
            open++
            next(arrivals())
            send(service, done)
          })
        }
        next(arrivals())
      })
    })
  )
  time.runSync(program)
  const requests = asked.reduce((sum, { requests }) => sum + requests, 0)
  const answered = asked.reduce((sum, { answered }) => sum + answered, 0)
  return {
    requests,
    availability: answered / requests,
    daily: asked.map(({ answered, requests }) => (requests === 0 ? 1 : answered / requests)),
    latency: { p50: latencies.at(0.5), p95: latencies.at(0.95), p99: latencies.at(0.99) },
    usd: models.reduce((sum, { usd }) => sum + usd(), 0),
    shares: Object.fromEntries(given.map(({ id }) => [id, (served.get(id) ?? 0) / Math.max(1, answered)])),
    calls: Object.fromEntries(models.map(({ calls, provider }) => [provider.id, calls()]))
  }
}

const weather = (
  model: CheckedModel,
  time: VirtualTime.VirtualTime,
  d: Dice,
  until: number
): { readonly provider: Provider.Provider; readonly usd: () => number; readonly calls: () => number } => {
  const latency = logNormal(model.latency.median, model.latency.p99)
  const outages = outagesOf(model, d, until)
  const during = model.outages?.as
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
    return model.errors.find(([, rate]) => (roll -= rate) < 0)?.[0]
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
        if (failing === undefined) usd += model.usdPerCall
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
  { outages }: CheckedModel,
  d: Dice,
  until: number
): ReadonlyArray<{ readonly from: number; readonly to: number }> => {
  if (outages === undefined) return []
  const length = logNormal(outages.median, outages.p99)
  const found: Array<{ readonly from: number; readonly to: number }> = []
  for (let from = d.exponential(outages.between); from < until;) {
    const to = from + length(d)
    found.push({ from, to })
    from = to + d.exponential(outages.between)
  }
  return found
}

/**
 * Forecasts several scenarios in the same weather. All are read before the first is run, and refused as in {@link run}.
 *
 * @category running
 * @since 0.1.0
 */
export const compare = (
  scenarios: { readonly [name: string]: Scenario },
  options?: { readonly seed?: number | undefined }
): ReadonlyArray<Outlook> =>
  Object.entries(scenarios)
    .map(([name, scenario]) => ready(`Forecast.compare: "${name}"`, scenario, { name, seed: options?.seed }))
    .map((forecast) => forecast())

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
