"""How a test's player runs after sparks: by keys, at the pace of the page and not of a driver."""

from __future__ import annotations

from typing import Final

#: A function of so many points: holds the arrows towards the nearest spark until the player has
#: them, or for a while those for a way around the stone that is in the way.
COLLECT: Final = """
    (points) => new Promise((done) => {
        const { dataset } = document.documentElement;
        const arena = document.getElementById("arena");
        const wanted = Number(dataset.score) + points;
        let [held, last, since, detourUntil] = [[], [0, 0], 0, 0];
        const hold = (codes) => {
            const tell = (type, code) =>
                arena.dispatchEvent(new KeyboardEvent(type, { code, bubbles: true }));
            for (const code of held) if (!codes.includes(code)) tell("keyup", code);
            for (const code of codes) if (!held.includes(code)) tell("keydown", code);
            held = codes;
        };
        const way = () => {
            const [dx, dy] = (dataset.nearest || "0 0").split(" ").map(Number);
            const [now, here] = [Date.now(), [Number(dataset.x), Number(dataset.y)]];
            const stuck = Math.hypot(here[0] - last[0], here[1] - last[1]) < 24;
            if (!stuck || now - since > 1400) [last, since] = [here, now];
            else if (now - since > 700 && dataset.nearest) detourUntil = now + 600;
            return now < detourUntil ? [-dy, dx] : [dx, dy];
        };
        const look = () => {
            const there = Number(dataset.score) >= wanted;
            const [dx, dy] = way();
            const codes = [];
            if (Math.abs(dx) > 14) codes.push(dx > 0 ? "ArrowRight" : "ArrowLeft");
            if (Math.abs(dy) > 14) codes.push(dy > 0 ? "ArrowDown" : "ArrowUp");
            // On top of it, too, only who moves catches it.
            if (dataset.nearest && !codes.length) codes.push("ArrowRight");
            hold(there ? [] : codes);
            if (there) done();
            else setTimeout(look, 30);
        };
        look();
    })
"""
