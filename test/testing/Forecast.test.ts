import { assert, describe, it } from "@effect/vitest"
import { Forecast } from "@llm-resilience/testing"

const steady: Forecast.Model = { id: "steady", latency: { median: "1 second", p99: "4 seconds" }, usdPerCall: 0.01 }
const shaky: Forecast.Model = {
  id: "shaky",
  latency: { median: "1 second", p99: "4 seconds" },
  errors: { ServerError: 0.05 },
  outages: { perMonth: 60, median: "15 minutes", p99: "1 hour" },
  usdPerCall: 0.02
}
const off = { retry: "off", cooldown: "off", throttle: "off", circuitBreaker: "off", budget: "off" } as const

describe("Forecast", () => {
  it("finds the latencies and the traffic that were put in", () => {
    const { calls, latency, requests, usd } = Forecast.run({ models: [steady], days: 1, perSecond: 0.2 })

    assert.closeTo(requests, 17_280, 500)
    assert.closeTo(latency.p50, 1000, 60)
    assert.closeTo(latency.p99, 4000, 500)
    assert.strictEqual(calls["steady"], requests)
    assert.closeTo(usd, requests * 0.01, 0.01)
  })

  it("finds the errors that were put in, where nothing helps against them", () => {
    const { availability } = Forecast.run({
      models: [{ ...steady, errors: { ServerError: 0.03, Overloaded: 0.02 } }],
      standard: off,
      days: 1,
      perSecond: 0.2
    })

    assert.closeTo(availability, 0.95, 0.006)
  })

  it("finds the outages that were put in", () => {
    const outages = { perMonth: 30, median: "30 minutes", p99: "30 minutes" } as const
    const { availability, daily } = Forecast.run({ models: [{ ...steady, outages }], standard: off, perSecond: 0.02 })

    assert.closeTo(availability, 1 - 0.5 / 24, 0.008)
    assert.strictEqual(daily.length, 30)
    assert.isBelow(Math.min(...daily), 0.97)
  })

  it("shows what a second provider and a hedge change, in the same weather", () => {
    const options = { days: 3, perSecond: 0.1 }
    const outlooks = Forecast.compare(
      {
        alone: { ...options, models: [shaky] },
        together: { ...options, models: [shaky, steady] },
        hedged: { ...options, models: [steady, shaky], chain: { hedge: { after: "2 seconds" } } }
      },
      { seed: 3 }
    )
    const [alone, together, hedged] = outlooks

    assert.deepStrictEqual(
      outlooks.map(({ name }) => name),
      ["alone", "together", "hedged"]
    )
    assert.isBelow(alone?.availability ?? 1, 0.985)
    assert.isAbove(together?.availability ?? 0, 0.9999)
    assert.isAbove(together?.shares["steady"] ?? 0, 0.01)
    assert.isBelow(hedged?.latency.p99 ?? Infinity, 3500)
    assert.isAbove(hedged?.calls["shaky"] ?? 0, 100)
  })

  it("is the same again for the same seed, and another one for another", () => {
    const scenario = { models: [shaky], days: 2, perSecond: 0.05 } as const

    assert.deepStrictEqual(Forecast.run(scenario), Forecast.run(scenario))
    assert.notDeepEqual(Forecast.run(scenario, { seed: 2 }), Forecast.run(scenario))
  })

  it("writes a table and a picture", () => {
    const outlooks = Forecast.compare({ "one & only": { models: [steady], days: 2, perSecond: 0.01 } })
    const [head = "", rule = "", row = ""] = Forecast.toTable(outlooks).split("\n")
    const svg = Forecast.toSvg(outlooks)

    assert.strictEqual(new Set([head.length, rule.length, row.length]).size, 1)
    assert.include(row, "100.000 %")
    assert.include(svg, "one &amp; only")
    assert.notInclude(svg, "NaN")
    assert.strictEqual(svg.split("<polyline").length, 2)
  })

  it("says what it refuses, where, and what it expected", () => {
    const scenario = { models: [steady], days: 1, perSecond: 0.02 } as const
    const model = (part: object) => ({ models: [{ ...steady, ...part }] })
    const long = { median: "3 hours", p99: "1 hour" }
    const refused: ReadonlyArray<readonly [part: object, why: string]> = [
      [{ models: [] }, "models must be at least one model, got []"],
      [{ models: undefined }, "models must be at least one model, got undefined"],
      [{ models: [undefined] }, "models[0] must be a model, got undefined"],
      [{ models: [shaky, steady, shaky] }, 'models[2].id must be another one than that of models[0], got "shaky"'],
      [model({ id: "" }), 'models[0].id must be a name that is not empty, got ""'],
      [model({ latency: undefined }), "models[0].latency must be a median and a p99, got undefined"],
      [model({ latency: { median: "1 second" } }), "models[0].latency.p99 must be longer than zero"],
      [model({ latency: { median: 0, p99: 1000 } }), "models[0].latency.median must be longer than zero"],
      [model({ latency: { median: -5, p99: 1000 } }), "models[0].latency.median must be longer than zero"],
      [model({ latency: { median: NaN, p99: 1000 } }), "models[0].latency.median must be longer than zero"],
      [model({ latency: { median: "3 secs", p99: 5000 } }), 'such as "2 seconds", got "3 secs"'],
      [model({ latency: { median: "1 second", p99: "Infinity" } }), "not for ever"],
      [model({ latency: long }), 'models[0].latency.p99 must be at least the median, which is "3 hours", got "1 hour"'],
      [model({ errors: { Overloaded: -0.1 } }), "models[0].errors.Overloaded must be in [0, 1], got -0.1"],
      [model({ errors: { Overloaded: NaN } }), "models[0].errors.Overloaded must be in [0, 1], got NaN"],
      [model({ errors: { ServerError: 2 } }), "models[0].errors.ServerError must be in [0, 1], got 2"],
      [model({ errors: { Overloaded: 0.7, RateLimited: 0.5 } }), "the sum of models[0].errors must be at most 1"],
      [
        model({ errors: { Overloded: 0.1 } }),
        "each key of models[0].errors must be one of Timeout, RateLimited, Overl"
      ],
      [model({ outages: {} }), "models[0].outages.perMonth must be in [0, 10000], got undefined"],
      [model({ outages: { perMonth: NaN } }), "models[0].outages.perMonth must be in [0, 10000], got NaN"],
      [model({ outages: { perMonth: -6 } }), "models[0].outages.perMonth must be in [0, 10000], got -6"],
      [model({ outages: { perMonth: 6, median: -5 } }), "models[0].outages.median must be longer than zero"],
      [model({ outages: { perMonth: 6, ...long } }), "models[0].outages.p99 must be at least the median"],
      [model({ outages: { perMonth: 6, p99: "1 minute" } }), 'the median, which is "10 minutes", got "1 minute"'],
      [model({ outages: { perMonth: 6, as: "Nope" } }), "models[0].outages.as must be one of Hang, Timeout, "],
      [model({ usdPerCall: -1 }), "models[0].usdPerCall must be a number >= 0, got -1"],
      [model({ usdPerCall: NaN }), "models[0].usdPerCall must be a number >= 0, got NaN"],
      [{ days: 0 }, "days must be in (0, 3660], got 0"],
      [{ days: 1e9 }, "days must be in (0, 3660], got 1000000000"],
      [{ perSecond: 0 }, "perSecond must be in (0, 1000], got 0"],
      [{ perSecond: "0.1" }, 'perSecond must be in (0, 1000], got "0.1"'],
      [{ days: 30, perSecond: 1000 }, "at most 100000000 requests; take fewer days, or fewer a second, got 2592000000"],
      [{ perSecond: 1e-7 }, "not one request comes in 1 days at 1e-7 a second; take more days, or more a second"],
      [{ deadline: 0 }, "deadline must be longer than zero"],
      [{ deadline: "-1 second" }, "deadline must be longer than zero"],
      [{ deadline: Infinity }, "deadline must be longer than zero and not for ever"]
    ]

    for (const [part, why] of refused) {
      const said = refusalOf(() => Forecast.run({ ...scenario, ...part }))
      assert.instanceOf(said, RangeError, why)
      assert.include(said?.message, "Forecast.run: ")
      assert.include(said?.message, why)
    }
    assert.include(refusalOf(() => Forecast.run(scenario, { seed: NaN }))?.message, "seed must be an integer, got NaN")
  })

  it("keeps what a policy said against its options", () => {
    const models = [steady] as const
    const options: ReadonlyArray<readonly [part: Partial<Forecast.Scenario>, why: string]> = [
      [{ chain: { hedge: { quantile: 5 } } }, "Hedge: quantile must be in (0, 1), got 5"],
      [{ standard: { hedge: { hedges: 0 } } }, "Hedge: hedges must be an integer >= 1, got 0"]
    ]

    for (const [part, why] of options) {
      const said = refusalOf(() => Forecast.run({ models, days: 1, ...part }))
      assert.strictEqual(said?.message, `Forecast.run: the chain cannot be built: ${why}`)
      assert.instanceOf(said?.cause, RangeError)
    }
  })

  it("refuses the last of several scenarios before it runs the first", () => {
    const scenario = { models: [steady], days: 3660, perSecond: 0.3 } as const
    const compare = (broken: Forecast.Scenario) => () => Forecast.compare({ long: scenario, broken })

    assert.include(refusalOf(compare({ ...scenario, days: -1 }))?.message, 'Forecast.compare: "broken": days must be')
    assert.include(
      refusalOf(compare({ ...scenario, chain: { share: 2 } }))?.message,
      'Forecast.compare: "broken": the chain cannot be built: Fallback.make: share'
    )
  })

  it("draws outages of different lengths when only the median is given", () => {
    const forecast = (outages: Forecast.Model["outages"]) =>
      Forecast.run({ models: [{ ...steady, outages }], standard: off, perSecond: 0.005 })

    const long = { perMonth: 60, median: "3 hours" } as const
    assert.deepStrictEqual(forecast(long), forecast({ ...long, p99: "36 hours" }))
    assert.deepStrictEqual(forecast({ perMonth: 60 }), forecast({ perMonth: 60, median: "10 minutes", p99: "2 hours" }))
  })

  it("takes rates that sum up to one, whatever computers make of them", () => {
    const errors = { Overloaded: 0.1, Network: 0.2, ServerError: 0.7 + 2e-16 }
    const { availability } = Forecast.run({ models: [{ ...steady, errors }], days: 1, perSecond: 0.001, standard: off })

    assert.strictEqual(availability, 0)
  })

  it("counts who still waits when the traffic ends", () => {
    const model = { ...steady, latency: { median: "20 hours", p99: "21 hours" } } as const
    const { availability, requests } = Forecast.run({
      models: [model],
      standard: { ...off, timeouts: "off" },
      days: 1,
      perSecond: 0.01,
      deadline: "2 days"
    })

    assert.closeTo(requests, 864, 100)
    assert.strictEqual(availability, 1)
  })

  it("holds nothing against a day on which nobody asked", () => {
    const { daily, requests } = Forecast.run({ models: [steady], days: 30, perSecond: 1e-5 })

    assert.isBelow(requests, 30)
    assert.deepStrictEqual(
      daily,
      daily.map(() => 1)
    )
  })
})

const refusalOf = (run: () => unknown): Error | undefined => {
  try {
    run()
  } catch (error) {
    return error as Error
  }
  return undefined
}
