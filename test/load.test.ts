import { assert, describe, it } from "@effect/vitest"
import { run, scenarios, settings } from "./load/scenarios.ts"

const named = (name: string) => {
  const scenario = scenarios().find((one) => one.name === name)
  assert.isDefined(scenario, name)
  return scenario
}

for (const [setting, options] of Object.entries(settings)) {
  describe(`Traffic through an incident, ${setting}`, () => {
    for (const scenario of scenarios()) {
      it(`is answered, and all is as before when it is over: ${scenario.name}`, () => {
        const figures = run(named(scenario.name), { options, perSecond: 25 })

        // For half of the time nobody is up in one of them.
        assert.isAtLeast(figures.success, scenario.secondary === undefined ? 1 : 0.4)
        // Nobody waits longer than its deadline.
        assert.isAtMost(figures.p99, 60_000)
        assert.isAtMost(figures.fullShare, 30)
        assert.deepStrictEqual(
          { successAtEnd: figures.successAtEnd, leftOver: figures.leftOver },
          { successAtEnd: 1, leftOver: [] }
        )
      })
    }

    it("does not amplify a full outage at a hundred calls a second", () => {
      const figures = run(named("full outage, errors at once"), { options, perSecond: 100 })

      assert.strictEqual(figures.success, 1)
      assert.isAtMost(figures.sickCalls, 30)
      assert.isAtMost(figures.callsPerRequest, 1.2)
      assert.isAtMost(figures.fullShare, 30)
    })

    it("stays within its budget of extra calls when a provider falls silent", () => {
      const figures = run(named("full outage, silence"), { options, perSecond: 100 })

      assert.strictEqual(figures.success, 1)
      assert.isAtMost(figures.callsPerRequest, 1.2)
    })
  })
}

describe("A run", () => {
  it("gives the same figures for the same seed, and others for another", () => {
    const of = (seed: number) =>
      run(named("half of the calls fail"), { options: settings.everything, perSecond: 25 }, seed)

    assert.deepStrictEqual(of(7), of(7))
    assert.notDeepEqual(of(7), of(8))
  })
})
