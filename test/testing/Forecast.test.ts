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

  it("refuses traffic that is none", () => {
    assert.throws(() => Forecast.run({ models: [steady], perSecond: 0 }), RangeError)
    assert.throws(() => Forecast.run({ models: [steady], days: -1 }), RangeError)
  })
})
