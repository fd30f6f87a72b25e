import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { remembering } from "../../packages/core/src/internal/questions.ts"

/** Numbers that a seed draws. */
const drawing = (seed: number) => {
  let state = seed
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return (state >>> 8) % below
  }
}

const question = (scope: string, number: number) => ({
  scope,
  question: `${number}?`,
  canonical: String(number),
  key: `${scope}/${number}`
})

describe("the questions that are remembered", () => {
  it.prop("evict of the largest scope the oldest", { seed: Arbitrary.schema(Schema.Int) }, ({ seed }) => {
    const random = drawing(seed)
    const most = 20
    const questions = remembering(most)
    // The same by looking at everything: scope and question in the order in which they were put.
    let model: Array<readonly [string, string]> = []
    for (let step = 0; step < 400; step++) {
      const asked = question(`s${random(1 + random(8))}`, random(12))
      const { dropped } = questions.put(asked)
      const isHere = model.some(([scope, canonical]) => scope === asked.scope && canonical === asked.canonical)
      if (isHere) {
        model = model.filter(([scope, canonical]) => scope !== asked.scope || canonical !== asked.canonical)
        assert.deepStrictEqual(dropped, [])
      } else if (model.length < most) assert.deepStrictEqual(dropped, [])
      else {
        const sizes = Map.groupBy(model, ([scope]) => scope)
        const largest = Math.max(...Array.from(sizes.values(), ({ length }) => length))
        const own = sizes.get(asked.scope)?.length ?? 0
        const gone = dropped[0]
        // Who has more than its share gives way itself, and so does one of equals.
        const scope = own * sizes.size > most || own === largest ? asked.scope : gone?.scope
        assert.strictEqual(gone?.scope, scope)
        if (scope !== asked.scope) assert.strictEqual(sizes.get(scope ?? "")?.length, largest)
        assert.strictEqual(gone?.canonical, sizes.get(scope ?? "")?.[0]?.[1])
        model = model.filter(([at, canonical]) => at !== gone?.scope || canonical !== gone.canonical)
      }
      model.push([asked.scope, asked.canonical])
      assert.strictEqual(questions.size(), model.length)
    }
    for (const [scope, canonical] of model) {
      assert.strictEqual(questions.find(scope, canonical)?.key, `${scope}/${canonical}`)
    }
    for (const scope of new Set(model.map(([scope]) => scope))) {
      const own = model.filter(([at]) => at === scope).map(([, canonical]) => canonical)
      assert.deepStrictEqual(
        questions.forget({ scope }).map(({ canonical }) => canonical),
        own
      )
    }
    assert.strictEqual(questions.size(), 0)
  })
})
