import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Line from "../../packages/core/src/internal/line.ts"

const values = (line: Line.Line<number>) => Array.from(line.places(), ({ value }) => value)

describe("a line", () => {
  it.prop("holds who came and has not left, in order", { seed: Arbitrary.schema(Schema.Int) }, ({ seed }) => {
    let state = seed
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
      return (state >>> 8) % below
    }
    const line = Line.make<number>()
    const places: Array<Line.Place<number>> = []
    const model = new Set<Line.Place<number>>()
    for (let step = 0; step < 200; step++) {
      if (places.length === 0 || random(2) === 0) {
        const place = line.add(step)
        places.push(place)
        model.add(place)
      } else {
        // Some of them have left already.
        const place = places[random(places.length)] ?? places[0]
        if (place !== undefined) assert.strictEqual(line.remove(place), model.delete(place))
      }
      assert.strictEqual(line.size(), model.size)
      assert.deepStrictEqual(
        values(line),
        Array.from(model, ({ value }) => value)
      )
    }
  })

  it("may be left by anybody while it is gone through", () => {
    const line = Line.make<number>()
    const [first, second, third, fourth] = [line.add(1), line.add(2), line.add(3), line.add(4)] as const
    const seen: Array<number> = []

    for (const { value } of line.places()) {
      seen.push(value)
      if (value === 2) for (const place of [first, second, third]) line.remove(place)
    }

    assert.deepStrictEqual(seen, [1, 2, 4])
    assert.deepStrictEqual(values(line), [fourth.value])
  })
})
