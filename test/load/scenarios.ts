/**
 * Minutes of traffic through an incident, in virtual time: what callers see, what the sick provider sees, and how fast everything is back.
 *
 * `npm run load` prints the table of docs/under-load.md; test/load.test.ts holds each scenario to its promises.
 */
import { LlmRequest, LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { VirtualTime } from "@llm-resilience/testing"
import { Duration, Effect, Exit, Option, Random } from "effect"

/** What one upstream does with a call that comes at a second of the run, while it has others to do. */
export type Behaviour = (second: number, running: number, random: number) => Fate

export interface Fate {
  /** Milliseconds until the answer or the error; absent for a call that nobody ever answers. */
  readonly after: number | undefined
  readonly error?: ProviderError.Kind | undefined
  readonly retryAfter?: Duration.Input | undefined
}

export interface Scenario {
  readonly name: string
  /** The seconds between which something is wrong. */
  readonly from: number
  readonly until: number
  readonly primary: Behaviour
  readonly secondary?: Behaviour | undefined
}

/** Answers within a log-normal time whose median is given; one in a hundred takes five times as long. */
const well =
  (median: number): Behaviour =>
  (_, __, random) => ({ after: median * Math.exp(0.7 * quantileOfNormal(random)) })

// The quantile of the normal distribution to within 0.005 (Abramowitz and Stegun, 26.2.22).
const quantileOfNormal = (share: number): number => {
  const tail = Math.sqrt(-2 * Math.log(Math.max(1e-12, Math.min(share, 1 - share))))
  const size = tail - (2.30753 + 0.27061 * tail) / (1 + 0.99229 * tail + 0.04481 * tail * tail)
  return share < 0.5 ? -size : size
}

const usually = well(600)
const from = 30
const until = 90

const sick =
  (instead: Behaviour, over: (second: number) => boolean = () => false): Behaviour =>
  (second, running, random) =>
    second >= from && second < until && !over(second)
      ? instead(second, running, random)
      : usually(second, running, random)

const failing =
  (error: ProviderError.Kind, after: number, retryAfter?: Duration.Input): Behaviour =>
  () => ({ after, error, retryAfter })

/** Takes so many calls a second and turns the others away. */
const limited = (perSecond: number, retryAfter?: Duration.Input): Behaviour => {
  let second = -1
  let taken = 0
  return (now, running, random) => {
    if (Math.floor(now) !== second) {
      second = Math.floor(now)
      taken = 0
    }
    return taken++ < perSecond ? usually(now, running, random) : { after: 20, error: "RateLimited", retryAfter }
  }
}

/** Each scenario anew, because some remember what they have seen. */
export const scenarios = (): ReadonlyArray<Scenario> => [
  { name: "full outage, errors at once", from, until, primary: sick(failing("ServerError", 100)) },
  { name: "full outage, silence", from, until, primary: sick(() => ({ after: undefined })) },
  { name: "429 surge with Retry-After 5 s", from, until, primary: sick(limited(20, "5 seconds")) },
  { name: "429 surge without Retry-After", from, until, primary: sick(limited(20)) },
  {
    name: "brown-out: ten times slower",
    from,
    until,
    primary: sick((second, running, random) => ({ after: 10 * (usually(second, running, random).after ?? 0) }))
  },
  {
    name: "half of the calls fail",
    from,
    until,
    primary: sick((second, running, random) =>
      random < 0.5 ? { after: 200, error: "ServerError" } : usually(second, running, (random - 0.5) * 2)
    )
  },
  {
    name: "overloaded: three of four rejected",
    from,
    until,
    primary: sick((second, running, random) =>
      random < 0.75 ? { after: 30, error: "Overloaded" } : usually(second, running, (random - 0.75) * 4)
    )
  },
  {
    name: "flapping every 20 s",
    from,
    until,
    primary: sick(failing("ServerError", 100), (second) => Math.floor((second - from) / 20) % 2 === 1)
  },
  {
    name: "slow death over 60 s",
    from,
    until,
    primary: sick((second, running, random) =>
      second < from + 50
        ? { after: (usually(second, running, random).after ?? 0) * 2 ** ((second - from) / 10) }
        : { after: undefined }
    )
  },
  {
    name: "all down, the backup is back after 30 s",
    from,
    until,
    primary: sick(failing("ServerError", 100)),
    secondary: sick(failing("ServerError", 100), (second) => second >= 60)
  }
]

export interface Figures {
  readonly requests: number
  /** Shares and milliseconds of the requests that came while something was wrong. */
  readonly success: number
  readonly p50: number
  readonly p99: number
  /** Calls that the primary got while it was sick, and all upstream calls for each request of that time. */
  readonly sickCalls: number
  readonly callsPerRequest: number
  /** Seconds from the end of the fault to the first answer of the primary, and from there until it has its full share. */
  readonly firstGood: number
  readonly fullShare: number
  /** Share of the requests answered in the last twenty seconds, and what is not as it was before. */
  readonly successAtEnd: number
  readonly leftOver: ReadonlyArray<string>
}

export interface Setting {
  readonly perSecond: number
  readonly options: LlmResilience.Options
}

const seconds = 240

/** Runs a scenario and gives its figures. The same seed gives the same figures. */
export const run = (scenario: Scenario, { options, perSecond }: Setting, seed = 1): Figures => {
  const time = VirtualTime.make({ seed })
  const calls: Array<{ readonly id: string; readonly second: number }> = []
  const ended: Array<{ readonly at: number; readonly took: number; readonly by: string | undefined }> = []
  const inFlight = new Map([
    ["primary", 0],
    ["secondary", 0]
  ])

  const upstream = (id: string, behaviour: Behaviour) => {
    const change = (by: number) => inFlight.set(id, (inFlight.get(id) ?? 0) + by)
    return Provider.make({
      id,
      model: `${id}-model`,
      generate: ({ settings }) =>
        Effect.flatMap(Random.next, (random) => {
          const second = time.now() / 1000
          calls.push({ id, second })
          const { after, error, retryAfter } = behaviour(second, inFlight.get(id) ?? 0, random)
          // The checks of a quiet provider go on when all traffic is over.
          const isCheck = settings.maxOutputTokens !== undefined
          if (!isCheck) change(1)
          const wait = after === undefined ? Effect.never : Effect.sleep(Duration.millis(after))
          return Effect.ensuring(
            Effect.andThen(
              wait,
              error === undefined
                ? Effect.succeed({ content: LlmResponse.textContent("Hello!") })
                : Effect.fail(errorOf(id, error, retryAfter))
            ),
            Effect.sync(() => (isCheck ? undefined : change(-1)))
          )
        })
    })
  }

  const program = Effect.scoped(
    Effect.gen(function* () {
      const resilience = yield* LlmResilience.make({
        ...options,
        steps: [
          { provider: upstream("primary", scenario.primary) },
          { provider: upstream("secondary", scenario.secondary ?? usually) }
        ]
      })
      const ask = Effect.gen(function* () {
        const at = time.now() / 1000
        const exit = yield* Effect.exit(resilience.generate(request))
        const by = Exit.isSuccess(exit) ? exit.value.served.provider : undefined
        ended.push({ at, took: time.now() - at * 1000, by })
      })
      for (let sent = 0; sent < seconds * perSecond; sent++) {
        yield* Effect.forkChild(ask)
        yield* Effect.sleep(Duration.millis(1000 / perSecond))
      }
      yield* Effect.sleep("60 seconds")
      const status = yield* resilience.status
      return status.flatMap(({ circuit, load, provider, unavailable }) => [
        ...(circuit !== undefined && circuit._tag !== "Closed"
          ? [`the circuit of ${provider} is ${circuit._tag}`]
          : []),
        ...((load?.inFlight ?? 0) + (load?.waiting ?? 0) === 0 ? [] : [`${provider} has calls in its bulkhead`]),
        ...(unavailable === undefined ? [] : [`${provider} is ${unavailable._tag}`]),
        ...((inFlight.get(provider) ?? 0) === 0 ? [] : [`${provider} still has calls`])
      ])
    })
  )
  const ending = time.run(program)
  if (ending._tag !== "Ended" || Exit.isFailure(ending.exit)) throw new Error(`The run ended in a ${ending._tag}`)

  const sickTime = (second: number) => second >= scenario.from && second < scenario.until
  const during = ended.filter(({ at }) => sickTime(at))
  const took = during.flatMap((one) => (one.by === undefined ? [] : [one.took])).toSorted((a, b) => a - b)
  const atEnd = ended.filter(({ at }) => at >= seconds - 20)
  const firstGood = Math.min(
    ...ended.flatMap(({ at, by, took }) => (by === "primary" && at >= scenario.until ? [at + took / 1000] : []))
  )
  return {
    requests: ended.length,
    success: took.length / during.length,
    p50: took[Math.ceil(0.5 * took.length) - 1] ?? Number.NaN,
    p99: took[Math.ceil(0.99 * took.length) - 1] ?? Number.NaN,
    sickCalls: calls.filter(({ id, second }) => id === "primary" && sickTime(second)).length,
    callsPerRequest: calls.filter(({ second }) => sickTime(second)).length / during.length,
    firstGood: firstGood - scenario.until,
    fullShare: fullShareAt(ended, scenario.until) - firstGood,
    successAtEnd: atEnd.filter(({ by }) => by !== undefined).length / atEnd.length,
    leftOver: ending.exit.value
  }
}

// The first second after the fault from which on the primary answers 95 of 100 requests, for five seconds in a row.
const fullShareAt = (
  ended: ReadonlyArray<{ readonly at: number; readonly by: string | undefined }>,
  healed: number
) => {
  for (let second = Math.floor(healed); second < seconds - 5; second++) {
    const window = ended.filter(({ at }) => at >= second && at < second + 5)
    if (window.filter(({ by }) => by === "primary").length >= 0.95 * window.length) return second
  }
  return Infinity
}

const request = LlmRequest.make({ prompt: "Hi" })

const errorOf = (
  provider: string,
  kind: ProviderError.Kind,
  retryAfter: Duration.Input | undefined
): ProviderError.ProviderError => {
  const asked = retryAfter === undefined ? undefined : Duration.fromInputUnsafe(retryAfter)
  if (kind === "Timeout") return new ProviderError.Timeout({ provider, kind: "attempt", after: Duration.zero })
  return kind === "RateLimited"
    ? new ProviderError.RateLimited({ provider, retryAfter: Option.fromUndefinedOr(asked) })
    : new ProviderError.APIError({ provider, reason: kind, description: "Simulated", retryAfter: asked })
}

/** What `LlmResilience` does unless it is told otherwise, and with everything on that it can do under load. */
export const settings = {
  standard: { deadline: "60 seconds" },
  everything: {
    deadline: "30 seconds",
    health: {},
    fallback: { hedge: {} },
    policy: LlmResilience.standard({
      timeouts: { attempt: "10 seconds" },
      bulkhead: { permits: 500 },
      rateLimit: {},
      adaptiveConcurrency: { initial: 100 }
    })
  }
} satisfies { readonly [name: string]: Setting["options"] }
